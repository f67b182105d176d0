// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// The oldest and the newest known release.
const (
	// Oldest is the oldest release that the Driver calls.
	Oldest = "0.8.0"
	// Reference is the newest release that was tested.
	Reference = "1.32.2"
)

// version is one release of smolvm.
type version struct{ major, minor, patch int }

var versionForm = regexp.MustCompile(`^smolvm (\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:[-+ ].*)?\s*$`)

// parseVersion reads what `smolvm --version` prints.
func parseVersion(out string) (version, error) {
	m := versionForm.FindStringSubmatch(out)
	if m == nil {
		return version{}, fmt.Errorf("%q is not a version of smolvm", clean(out))
	}
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // at most four digits
	}
	return version{n[0], n[1], n[2]}, nil
}

func (v version) compare(o version) int {
	return cmp.Or(cmp.Compare(v.major, o.major), cmp.Compare(v.minor, o.minor), cmp.Compare(v.patch, o.patch))
}

func (v version) atLeast(major, minor, patch int) bool {
	return v.compare(version{major, minor, patch}) >= 0
}

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v.major, v.minor, v.patch) }

// capabilities describes what a release can do and what it requires from its
// caller. The embedded part is for everyone; the other fields decide argv and
// locks.
type capabilities struct {
	host.SmolvmVersion

	// nameFlag: create and delete take --name instead of a positional argument
	// (1.0.2).
	nameFlag bool
	// copyMode: cp takes --mode (1.9.0).
	copyMode bool
	// jsonErrors: --error-format json (1.29.0).
	jsonErrors bool
	// seccomp (0.8.2) and landlock (1.4.0) can be enabled at start.
	seccomp, landlock bool
	// imageLimit: smolvm's limit for an image archive can be raised (1.4.0).
	imageLimit bool
	// lockedDB: a write fails immediately with "database is locked" while another
	// one runs, and a start that could not record its result only prints a
	// warning (before 1.22.0). Running writes one at a time avoids two more bugs:
	// before 1.2.5, two concurrent starts read each other's readiness, and on
	// 0.8.0 two creates of the same name could both succeed.
	lockedDB bool
	// fewConnections: the guest's agent serves 8 connections at a time, including
	// the liveness check, so a machine with 8 long execs is listed as
	// unreachable. Tests show that 1.32.2 no longer has this limit.
	fewConnections bool
}

func capabilitiesOf(v version) capabilities {
	return capabilities{
		SmolvmVersion: host.SmolvmVersion{
			Version:     v.String(),
			LocalImages: v.atLeast(1, 1, 3),
			SecretFiles: v.atLeast(1, 4, 0),
			Labels:      v.atLeast(1, 8, 0),
			// The usage text of 1.4.0 has it, the oldest release with a public
			// binary; the source of 0.9.0 does not.
			Command:      v.atLeast(1, 4, 0),
			PolicyInList: v.atLeast(1, 29, 0),
			EgressEvents: v.atLeast(1, 8, 1),
			// Tested: 1.7.7 and 1.8.0 unpack the artifact for each machine. 1.9.1
			// unpacks it once per checksum, but rejects another artifact with the
			// same checksum. 1.32.2 computes the checksum itself. According to its
			// source, 0.9.0 trusts the checksum that the artifact states.
			Artifacts: v.atLeast(1, 7, 7),
			// Tested: 1.8.0 keeps the policy, 1.7.7 drops it.
			ArtifactPolicy: v.atLeast(1, 8, 0),
			OwnUser:        v.atLeast(1, 2, 5),
			Sessions:       sessions(v),
			Backend:        backend(v),
			Newer:          v.compare(version{1, 32, 2}) > 0,
			Older:          !v.atLeast(0, 8, 0),
		},
		nameFlag:       v.atLeast(1, 0, 2),
		copyMode:       v.atLeast(1, 9, 0),
		jsonErrors:     v.atLeast(1, 29, 0),
		seccomp:        v.atLeast(0, 8, 2),
		landlock:       v.atLeast(1, 4, 0),
		imageLimit:     v.atLeast(1, 4, 0),
		lockedDB:       !v.atLeast(1, 22, 0),
		fewConnections: fewConnections(v),
	}
}

func fewConnections(v version) bool { return !v.atLeast(1, 32, 2) }

// sessions is how many of the guest agent's connections users may take. With few
// connections, two of maxExecs are left for this agent.
func sessions(v version) int {
	if fewConnections(v) {
		return maxExecs - 2
	}
	return maxSessions
}

// backend is the network backend that a machine with a policy gets by default.
func backend(v version) string {
	if v.atLeast(1, 1, 3) {
		return "virtio-net"
	}
	return "tsi"
}

// fileID changes whenever the file at a path is replaced or written.
type fileID struct {
	dev, inode uint64
	size       int64
	modified   time.Time
}

func fileIDOf(path string) (fileID, error) {
	st, err := os.Stat(path)
	if err != nil {
		return fileID{}, err
	}
	id := fileID{size: st.Size(), modified: st.ModTime()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		id.dev, id.inode = sys.Dev, sys.Ino
	}
	return id, nil
}

// versions caches the capabilities of the installed binary until the file
// changes.
type versions struct {
	mu   sync.Mutex
	of   fileID
	caps capabilities
}

// Version implements host.Machines.
func (d *Driver) Version(ctx context.Context) (host.SmolvmVersion, error) {
	c, err := d.capabilities(ctx)
	return c.SmolvmVersion, err
}

// capabilities returns what the installed release can do. It runs
// smolvm --version once per binary.
func (d *Driver) capabilities(ctx context.Context) (capabilities, error) {
	d.versions.mu.Lock()
	defer d.versions.mu.Unlock()
	id, err := fileIDOf(d.binary())
	if err != nil {
		return capabilities{}, fmt.Errorf("smolvm: %w: %w", host.ErrUnavailable, err)
	}
	if id == d.versions.of {
		return d.versions.caps, nil
	}
	if err := d.prepare(); err != nil {
		return capabilities{}, err
	}
	out, err := d.run(ctx, call{args: []string{"--version"}, timeout: versionTimeout, what: "smolvm --version"})
	if err != nil {
		return capabilities{}, err
	}
	v, err := parseVersion(string(out.Stdout))
	if err != nil {
		return capabilities{}, fmt.Errorf("smolvm --version: %w: %w", host.ErrUnavailable, err)
	}
	d.versions.of, d.versions.caps = id, capabilitiesOf(v)
	return d.versions.caps, nil
}

// supported is like capabilities, but returns an error if the release is older
// than Oldest. Every call except --version uses it.
func (d *Driver) supported(ctx context.Context) (capabilities, error) {
	c, err := d.capabilities(ctx)
	if err == nil && c.Older {
		err = fmt.Errorf("smolvm %s is older than %s: %w", c.Version, Oldest, host.ErrUnsupported)
	}
	return c, err
}
