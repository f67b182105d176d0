// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

// MachinesFixture is an implementation of host.Machines and its environment.
type MachinesFixture struct {
	Machines host.Machines
	// Dir is a folder for Smolfiles, secrets and images. The users that machines
	// run as can read it and pass through it.
	Dir string
	// Image is the path of an image archive with a shell; empty to use bare
	// machines.
	Image string
	// Artifact creates a .smolmachine with a shell for this test only.
	Artifact func(t *testing.T) string
	// Size has the CPUs and the memory of each machine. Zero values are left to
	// smolvm.
	Size machinesize.Size
	// StoredEnv returns the env from a machine's Smolfile as it was stored.
	StoredEnv func(t *testing.T, name string) []string
	// PlacesContaining returns the places that contain a text: files in the implementation's
	// environment and command lines of processes.
	PlacesContaining func(t *testing.T, text string) []string
	// Leftovers returns what is left of a machine: folders, cgroups and processes.
	Leftovers func(t *testing.T, name string) []string
	// AddForeign adds a machine that does not belong to a Bottle.
	AddForeign func(t *testing.T, name string)
	// Kill ends a VMM by SIGKILL.
	Kill func(t *testing.T, m host.Machine)
	// Deny adds connections that smolvm refused the machine, as the newest ones.
	Deny func(t *testing.T, name string, denials []host.Denial)
	// NetNS creates an empty network namespace; OwnNetNS returns the namespace of
	// the test.
	NetNS, OwnNetNS func(t *testing.T) (path string, id host.NetNS)
	// Cgroup returns the name of the cgroup that a process is in. It may be nil
	// only with MachineOptions.WithoutCgroups.
	Cgroup func(t *testing.T, pid int) string
	// Program is the path of a static busybox.
	Program string
}

// MachineOptions select the tests of the suite.
type MachineOptions struct {
	// WithoutVM leaves out tests that boot a machine.
	WithoutVM bool
	// WithoutWorkload leaves out tests in which the guest acts by itself.
	WithoutWorkload bool
	// WithoutCgroups leaves out tests that check the cgroups of processes. It is
	// for fakes, which have no processes.
	WithoutCgroups bool
}

type machineTest struct {
	name string
	run  func(t *testing.T, f MachinesFixture)
}

// TestMachines runs the suite, with a new fixture for every test.
func TestMachines(t *testing.T, fixture func(t *testing.T) MachinesFixture, o MachineOptions) {
	tests := []machineTest{
		{"version", machineVersion},
		{"create, list, delete", machineRecord},
		{"sizes", machineSizes},
		{"list shows the policy", machinePolicy},
		{"absent", machineAbsent},
		{"not started", machineNotStarted},
		{"no error contains a Smolfile's values", machineBadSmolfile},
		{"refused", machineRefused},
		{"unsupported by the version", machineUnsupported},
		{"env is stored byte for byte", machineStoredEnv},
		{"a secret is stored by reference", machineSecretReference},
		{"foreign machines", machineForeign},
		{"twenty in parallel", machineTwenty},
		{"one name ten times in parallel", machineOneName},
		{"cancelled", machineCancelled},
		{"policy as persisted", machinePersisted},
		{"denials", machineDenials},
		{"no VMM", machineNoVMM},
		{"no network namespace", machineNoNetNS},
		{"made from an artifact", machineArtifact},
		{"artifact refused", machineArtifactRefused},
	}
	if !o.WithoutVM {
		tests = append(tests, bootTests...)
	}
	if !o.WithoutVM && !o.WithoutCgroups {
		tests = append(tests, machineTest{"in its cgroup", machineCgroup})
	}
	if !o.WithoutVM && !o.WithoutWorkload {
		tests = append(tests, machineTest{"command", machineCommand})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, fixture(t)) })
	}
}

// envMarker is a text to find the places that store env values.
const envMarker = "needle-in-the-env"

// machineEnv has an entry of each kind that must be stored byte for byte.
var machineEnv = []string{
	"PLAIN=1",
	"EMPTY=",
	"MARK=" + envMarker,
	"EQUALS=a=b=c",
	`QUOTES=it's "quoted" and \backslashed\ and ` + "`ticked`",
	"LEADING=  two spaces first",
	"INNER=a  b\tc",
	"LINES=first\nsecond\r\nthird",
	"EMOJI=🍾 flaschenpost äöü 漢字",
	"CONTROL=\x01\x02\x1b[31mred\x7f!",
	"DOLLAR=$HOME ${PATH} $(id) %s",
	"TOML=[network]\nallow_cidrs = [\"0.0.0.0/0\"]\n#",
}

// testMachine is a machine that is deleted at the end of the test.
type testMachine struct {
	f    MachinesFixture
	spec host.MachineSpec
	name string
}

func newMachine(t *testing.T, f MachinesFixture) *testMachine {
	t.Helper()
	owner := newOwner("demo")
	spec := host.MachineSpec{Size: f.Size}
	spec.Owner = owner
	spec.Smolfile = smolfileOf(t, f, machineEnv)
	v, err := f.Machines.Version(t.Context())
	mustDo(t, "version", err)
	if v.LocalImages {
		spec.Image = f.Image
	}
	m := &testMachine{f: f, spec: spec, name: owner.ID()}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := f.Machines.DeleteMachine(ctx, m.name); err != nil {
			t.Errorf("delete %s: got %v, want nil", m.name, err)
		}
		if left := f.Leftovers(t, m.name); len(left) > 0 {
			t.Errorf("left of %s: got %q, want nothing", m.name, left)
		}
	})
	return m
}

func (m *testMachine) create(t *testing.T) {
	t.Helper()
	if err := m.f.Machines.CreateMachine(t.Context(), m.spec); err != nil {
		t.Fatalf("create: %v", err)
	}
}

// find returns the machine as listed, or false when it is not in the list.
func (m *testMachine) find(t *testing.T) (host.Machine, bool) {
	t.Helper()
	list, err := m.f.Machines.ListMachines(t.Context())
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	i := slices.IndexFunc(list, func(x host.Machine) bool { return x.Name == m.name })
	if i < 0 {
		return host.Machine{}, false
	}
	return list[i], true
}

// smolfileOf writes a Smolfile with this env and one allowed address.
func smolfileOf(t *testing.T, f MachinesFixture, env []string) string {
	t.Helper()
	b, err := toml.Marshal(map[string]any{
		"env": env, "network": map[string]any{"allow_cidrs": []string{"192.168.44.2/32"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, f, "Smolfile", string(b))
}

// writeFile creates a file with a new name that only its owner can read.
func writeFile(t *testing.T, f MachinesFixture, kind, content string) string {
	t.Helper()
	file, err := os.CreateTemp(f.Dir, kind+"-*")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return file.Name()
}

func wantKind(t *testing.T, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: got %v, want %q", what, err, kind)
	}
}
