// SPDX-License-Identifier: Apache-2.0

package nodefacts

import (
	"errors"
	"fmt"
	"strings"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
)

// killMajor and killMinor are the oldest kernel that can kill a whole cgroup.
const killMajor, killMinor = 5, 14

// cgroupFact returns whether cgroups can be used. A machine is identified and
// killed by its cgroup, so a node needs them. Limits are only a second line of
// defence: a node runs bottles without them.
func cgroupFact(s cgroup.Support, err error) host.Fact {
	switch {
	case s.Kernel != "" && !s.Kill && older(s.Kernel):
		return bad(cgroupName, "kernel %s cannot kill a cgroup: use Linux %d.%d or newer", s.Kernel, killMajor, killMinor)
	case errors.Is(err, cgroup.ErrNoHierarchy):
		return bad(cgroupName, "%s", err)
	case err != nil:
		return bad(cgroupName, "cgroups cannot be inspected: %s", reason(err))
	case len(s.Missing) > 0:
		return good(cgroupName, fmt.Sprintf("machines run without limits of %s, because cgroup version 1 holds these controllers: to enable the limits, boot with systemd.unified_cgroup_hierarchy=1",
			strings.Join(s.Missing, ", ")))
	}
	return good(cgroupName, "")
}

// older reports whether a kernel release such as 5.10.0-28-amd64 is older than
// the oldest usable one. A release that cannot be parsed counts as new enough.
func older(release string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 {
		return false
	}
	return major < killMajor || major == killMajor && minor < killMinor
}
