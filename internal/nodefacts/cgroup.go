// SPDX-License-Identifier: Apache-2.0

package nodefacts

import (
	"errors"
	"fmt"
	"strings"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
)

// The oldest kernel that can kill a whole cgroup.
const killMajor, killMinor = 5, 14

// cgroupFact: a machine is identified by its cgroup, and killed by it. Limits
// are a second line of defence: a node runs bottles without them.
func cgroupFact(s cgroup.Support, err error) host.Fact {
	switch {
	case s.Kernel != "" && !s.Kill && older(s.Kernel):
		return bad(cgroupName, "kernel %s cannot kill a cgroup: use Linux %d.%d or newer", s.Kernel, killMajor, killMinor)
	case errors.Is(err, cgroup.ErrNoHierarchy):
		return bad(cgroupName, "%s", err)
	case err != nil:
		return bad(cgroupName, "cgroups cannot be looked at: %s", reason(err))
	case len(s.Missing) > 0:
		return good(cgroupName, fmt.Sprintf("machines run without limits of %s, for cgroup version 1 holds these controllers: boot with systemd.unified_cgroup_hierarchy=1 to have them",
			strings.Join(s.Missing, ", ")))
	}
	return good(cgroupName, "")
}

// older reports whether a release such as 5.10.0-28-amd64 is older than the
// oldest that will do. One that cannot be read is taken for new.
func older(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 {
		return false
	}
	return major < killMajor || major == killMajor && minor < killMinor
}
