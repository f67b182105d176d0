// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
)

var bundleCIDR = netip.MustParsePrefix("192.168.44.2/32")

// newArtifactMachine does the same as newMachine for a machine that is made from
// an artifact.
func newArtifactMachine(t *testing.T, f MachinesFixture, artifact string) *testMachine {
	t.Helper()
	m := newMachine(t, f)
	m.spec.Image, m.spec.Smolfile = "", ""
	m.spec.Artifact, m.spec.Env, m.spec.AllowCIDR = artifact, artifactEnv, bundleCIDR
	return m
}

// artifactEnv also has entries that a Smolfile cannot contain, such as one with
// white space at the end.
var artifactEnv = slices.Concat(machineEnv, []string{"TRAILING=x \t\n", "-e=dash first"})

// machineArtifact checks that env and policy are stored. Versions without
// ArtifactPolicy must store no policy.
func machineArtifact(t *testing.T, f MachinesFixture) {
	m, ctx := newArtifactMachine(t, f, f.Artifact(t)), t.Context()
	if m.wantUnsupported(t) {
		return
	}
	v, _ := f.Machines.Version(ctx)
	m.spec.CPUs, m.spec.MemoryMiB = 1, 320
	m.create(t)
	// The artifact's own entries come first, so that ours override them.
	got := f.StoredEnv(t, m.name)
	if diff := cmp.Diff(artifactEnv, got[max(0, len(got)-len(artifactEnv)):]); diff != "" {
		t.Errorf("env stored (-want +got):\n%s", diff)
	}
	var want host.Policy
	if v.ArtifactPolicy {
		want.AllowedCIDRs = []string{bundleCIDR.String()}
	}
	policy, err := f.Machines.Policy(ctx, m.name)
	if diff := cmp.Diff(want, policy); err != nil || diff != "" {
		t.Errorf("policy: %v (-want +got):\n%s", err, diff)
	}
	listed, ok := m.find(t)
	if !ok || listed.State != host.MachineCreated || listed.CPUs != 1 || listed.MemoryMiB != 320 {
		t.Errorf("listed: got %+v, want it created, with 1 CPU and 320 MiB", listed)
	}
	if v.Labels && listed.UID != m.spec.Owner.UID {
		t.Errorf("listed: got the UID %q, want %q", listed.UID, m.spec.Owner.UID)
	}
	if v.PolicyInList && !slices.Equal(listed.AllowedCIDRs, want.AllowedCIDRs) {
		t.Errorf("listed: got the policy %q, want %q", listed.AllowedCIDRs, want.AllowedCIDRs)
	}
	wantKind(t, "create again", f.Machines.CreateMachine(ctx, m.spec), host.ErrConflict)
	if err := f.Machines.DeleteMachine(ctx, m.name); err != nil {
		t.Fatal(err)
	}
	if left := f.Leftovers(t, m.name); len(left) > 0 {
		t.Errorf("deleted: got %q left, want nothing", left)
	}
}

// wantUnsupported returns true if the version does not support artifacts, after
// it has checked that create refuses the artifact.
func (m *testMachine) wantUnsupported(t *testing.T) bool {
	t.Helper()
	v, err := m.f.Machines.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v.Artifacts {
		return false
	}
	wantKind(t, "create from an artifact with "+v.Version, m.f.Machines.CreateMachine(t.Context(), m.spec), host.ErrUnsupported)
	if _, ok := m.find(t); ok {
		t.Error("got a machine, want none")
	}
	return true
}

func machineArtifactRefused(t *testing.T, f MachinesFixture) {
	artifact := f.Artifact(t)
	if newArtifactMachine(t, f, artifact).wantUnsupported(t) {
		return
	}
	link := filepath.Join(f.Dir, "link.smolmachine")
	if err := os.Symlink(artifact, link); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*host.MachineSpec){
		"with an image":          func(s *host.MachineSpec) { s.Image = artifact },
		"with a Smolfile":        func(s *host.MachineSpec) { s.Smolfile = smolfileOf(t, f, machineEnv) },
		"without an address":     func(s *host.MachineSpec) { s.AllowCIDR = netip.Prefix{} },
		"absent":                 func(s *host.MachineSpec) { s.Artifact = filepath.Join(f.Dir, "nonexistent.smolmachine") },
		"relative":               func(s *host.MachineSpec) { s.Artifact = "packed.smolmachine" },
		"a folder":               func(s *host.MachineSpec) { s.Artifact = f.Dir },
		"a link":                 func(s *host.MachineSpec) { s.Artifact = link },
		"an empty file":          func(s *host.MachineSpec) { s.Artifact = writeFile(t, f, "packed.smolmachine", "") },
		"env without a value":    func(s *host.MachineSpec) { s.Env = []string{"A=1", "hunter2"} },
		"env without a name":     func(s *host.MachineSpec) { s.Env = []string{"=hunter2"} },
		"env with a NUL":         func(s *host.MachineSpec) { s.Env = []string{"A=hunter2\x00"} },
		"env that is not UTF-8":  func(s *host.MachineSpec) { s.Env = []string{"A=hunter2\xff"} },
		"env that is too long":   func(s *host.MachineSpec) { s.Env = []string{"A=hunter2" + strings.Repeat("x", 128<<10)} },
		"env with a Smolfile":    func(s *host.MachineSpec) { *s = plain(t, f, *s); s.Env = []string{"A=hunter2"} },
		"address with Smolfile":  func(s *host.MachineSpec) { *s = plain(t, f, *s); s.AllowCIDR = bundleCIDR },
		"a mount that is absent": mount(filepath.Join(f.Dir, "nonexistent"), "/x"),
	} {
		m := newArtifactMachine(t, f, artifact)
		change(&m.spec)
		err := f.Machines.CreateMachine(t.Context(), m.spec)
		wantKind(t, what, err, host.ErrInvalid)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want no value in it", what, err)
		}
		if _, ok := m.find(t); ok {
			t.Errorf("%s: got a machine, want none", what)
		}
	}
	// Every release drops secrets with an artifact, so create must refuse them.
	m := newArtifactMachine(t, f, artifact)
	m.spec.Secrets = []host.SecretFile{{Name: "A", Path: writeFile(t, f, "secret", "x")}}
	wantKind(t, "secrets", f.Machines.CreateMachine(t.Context(), m.spec), host.ErrUnsupported)
	if _, ok := m.find(t); ok {
		t.Error("secrets: got a machine, want none")
	}
}

// plain returns a valid spec without an artifact.
func plain(t *testing.T, f MachinesFixture, s host.MachineSpec) host.MachineSpec {
	t.Helper()
	s.Artifact, s.Env, s.AllowCIDR, s.Smolfile = "", nil, netip.Prefix{}, smolfileOf(t, f, machineEnv)
	return s
}

// machineArtifactGuest checks that the guest has the env that was given with an
// artifact.
func machineArtifactGuest(t *testing.T, f MachinesFixture) {
	m := newArtifactMachine(t, f, f.Artifact(t))
	if m.wantUnsupported(t) {
		return
	}
	m.create(t)
	m.start(t)
	got := strings.Split(m.exec(t, "cat", "/proc/self/environ"), "\x00")
	for _, want := range artifactEnv {
		if !slices.Contains(got, want) {
			t.Errorf("env in the guest: got %q, want %q in it", got, want)
		}
	}
	m.exec(t, "sh", "-c", "cat >/kept")
	m.exec(t, "sync")
	if err := f.Machines.StopMachine(t.Context(), m.name); err != nil {
		t.Fatal(err)
	}
	m.start(t)
	m.exec(t, "cat", "/kept")
}
