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
)

// MachinesFixture is an implementation of host.Machines and its world.
type MachinesFixture struct {
	Machines host.Machines
	// Dir is a folder for Smolfiles, secrets and images, passable and readable
	// for those that machines run as.
	Dir string
	// Image is a guest's archive with a shell; empty where none is to be used.
	Image string
	// Artifact makes a .smolmachine with a shell, for the test alone.
	Artifact func(t *testing.T) string
	// Size bounds each machine: CPUs and memory. Zero is not asked for.
	Size host.MachineSpec
	// StoredEnv is what was kept of a machine's Smolfile env.
	StoredEnv func(t *testing.T, name string) []string
	// Where returns the places that hold a text: files of the
	// implementation's world and command lines of processes.
	Where func(t *testing.T, text string) []string
	// Left returns what is left of a machine: folders, cgroups and processes.
	Left func(t *testing.T, name string) []string
	// AddForeign makes a machine that is not a bottle's.
	AddForeign func(t *testing.T, name string)
	// Kill ends a VMM by SIGKILL.
	Kill func(t *testing.T, m host.Machine)
	// Deny makes these the newest that smolvm refused a machine.
	Deny func(t *testing.T, name string, denials []host.Denial)
	// NetNS makes a network namespace without anything in it; OwnNetNS is the
	// one that the test is in.
	NetNS, OwnNetNS func(t *testing.T) (path string, id host.NetNS)
	// Cgroup is the name of the cgroup that a process is in; nil where processes
	// are made up.
	Cgroup func(t *testing.T, pid int) string
	// Program is a static busybox.
	Program string
}

// MachineOptions say how much of the suite applies.
type MachineOptions struct {
	// WithoutVM leaves out what needs a machine to boot.
	WithoutVM bool
	// WithoutWorkload leaves out what the guest does by itself.
	WithoutWorkload bool
}

type machineTest struct {
	name string
	run  func(t *testing.T, f MachinesFixture)
}

// TestMachines runs the suite, with a new fixture for every test.
func TestMachines(t *testing.T, fixture func(t *testing.T) MachinesFixture, o MachineOptions) {
	tests := []machineTest{
		{"version", machineVersion},
		{"made, listed, deleted", machineRecord},
		{"sizes", machineSizes},
		{"policy reads back", machinePolicy},
		{"absent", machineAbsent},
		{"not started", machineNotStarted},
		{"a Smolfile's values are in no error", machineBadSmolfile},
		{"refused as asked for", machineRefused},
		{"what the version cannot do", machineUnsupported},
		{"env is kept byte for byte", machineStoredEnv},
		{"a secret is kept by reference", machineSecretReference},
		{"others' machines", machineForeign},
		{"twenty at once", machineTwenty},
		{"one name ten times at once", machineOneName},
		{"cancelled", machineCancelled},
		{"policy as persisted", machinePersisted},
		{"denials", machineDenials},
		{"no VMM", machineNoVMM},
		{"no network namespace", machineNoNetNS},
		{"made of an artifact", machineArtifact},
		{"artifact refused", machineArtifactRefused},
	}
	if !o.WithoutVM {
		tests = append(tests, bootTests...)
	}
	if !o.WithoutVM && !o.WithoutWorkload {
		tests = append(tests, machineTest{"command", machineCommand})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, fixture(t)) })
	}
}

// envMark is found wherever env values are kept.
const envMark = "needle-in-the-env"

// machineEnv is one entry of each kind that must arrive byte for byte.
var machineEnv = []string{
	"PLAIN=1",
	"EMPTY=",
	"MARK=" + envMark,
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

// testMachine is one machine of a test, gone when the test is over.
type testMachine struct {
	f    MachinesFixture
	spec host.MachineSpec
	name string
}

func newMachine(t *testing.T, f MachinesFixture) *testMachine {
	t.Helper()
	owner := newOwner("demo")
	spec := f.Size
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
		if left := f.Left(t, m.name); len(left) > 0 {
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

// find returns the machine as listed; false when it is not.
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

// writeFile makes a file that its owner alone can read, under a new name.
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
		t.Errorf("%s: got %v, want it to be %q", what, err, kind)
	}
}
