// SPDX-License-Identifier: Apache-2.0

package hosttest_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

func TestMachines(t *testing.T) {
	oldest := host.SmolvmVersion{Version: "0.8.0", Backend: "tsi"}
	noPolicy := hosttest.ReferenceVersion
	noPolicy.Version, noPolicy.ArtifactPolicy = "1.7.7", false
	for _, v := range []host.SmolvmVersion{hosttest.ReferenceVersion, oldest, noPolicy} {
		t.Run(v.Version, func(t *testing.T) {
			hostcontract.TestMachines(t, func(t *testing.T) hostcontract.MachinesFixture {
				return machinesFixture(t, v)
			}, hostcontract.MachineOptions{WithoutWorkload: true, WithoutCgroups: true})
		})
	}
}

func machinesFixture(t *testing.T, v host.SmolvmVersion) hostcontract.MachinesFixture {
	f := hosttest.NewMachines(nil)
	f.SetVersion(v)
	f.ResolveNetNS(func(path string) host.NetNS {
		inode, _ := strconv.ParseUint(strings.TrimPrefix(path, "/netns/"), 10, 64)
		if path == "" {
			inode = 1
		}
		if inode == 0 {
			return host.NetNS{}
		}
		return host.NetNS{Dev: 4, Inode: inode}
	})
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("\x7fELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "guest.tar")
	if err := os.WriteFile(image, []byte("image"), 0o644); err != nil {
		t.Fatal(err)
	}
	return hostcontract.MachinesFixture{
		Machines: f, Dir: dir, Image: image,
		Artifact: func(t *testing.T) string {
			path := filepath.Join(dir, "packed.smolmachine")
			if err := os.WriteFile(path, []byte("an artifact"), 0o644); err != nil {
				t.Fatal(err)
			}
			return path
		},
		StoredEnv: func(_ *testing.T, name string) []string { return f.StoredEnv(name) },
		PlacesContaining: func(_ *testing.T, text string) (places []string) {
			for _, name := range f.Names() {
				if strings.Contains(strings.Join(f.StoredEnv(name), "\n"), text) {
					places = append(places, name)
				}
			}
			return places
		},
		Leftovers: func(_ *testing.T, name string) (left []string) {
			if m, _, ok := f.Get(name); ok && m.PID != 0 {
				left = append(left, "process of "+name)
			}
			if !slices.Contains(f.Names(), name) {
				return left
			}
			return append(left, "record of "+name)
		},
		AddForeign: func(_ *testing.T, name string) { f.Add(host.Machine{Name: name, State: host.MachineRunning}) },
		Kill:       func(_ *testing.T, m host.Machine) { f.Kill(m.Name) },
		Deny:       func(_ *testing.T, name string, d []host.Denial) { f.AddDenials(name, d...) },
		NetNS:      func(*testing.T) (string, host.NetNS) { return "/netns/2", host.NetNS{Dev: 4, Inode: 2} },
		OwnNetNS:   func(*testing.T) (string, host.NetNS) { return "", host.NetNS{Dev: 4, Inode: 1} },
		Program:    program,
	}
}

// TestMachinesOutsideTheirWall checks the methods with which tests move a machine
// out of its wall.
func TestMachinesOutsideTheirWall(t *testing.T) {
	f := hosttest.NewMachines(nil)
	dir, ctx := t.TempDir(), t.Context()
	owner := host.Owner{UID: "1a2b3c4d-0000", Slug: "demo"}
	spec := host.MachineSpec{Owner: owner, Smolfile: filepath.Join(dir, "Smolfile")}
	if err := os.WriteFile(spec.Smolfile, []byte("[network]\nallow_cidrs = [\"10.0.0.2/32\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.CreateMachine(ctx, spec); err != nil {
		t.Fatal(err)
	}
	name := owner.ID()
	if err := f.StartMachine(ctx, name, "/proc/self/ns/net"); err != nil {
		t.Fatal(err)
	}
	if got := f.NetNS(name); got != "/proc/self/ns/net" {
		t.Errorf("started in: got %q, want the path", got)
	}
	vmms := func() []host.VMM {
		t.Helper()
		got, err := f.VMMs(ctx, []string{name})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	elsewhere := host.NetNS{Dev: 9, Inode: 9}
	before := vmms()
	f.MoveVMM(name, elsewhere)
	if got := vmms(); len(before) != 1 || len(got) != 1 || got[0].NetNS != elsewhere || got[0].PID != before[0].PID {
		t.Errorf("moved: got %+v after %+v, want the same process elsewhere", got, before)
	}
	stray := f.AddVMM(name, elsewhere)
	if got := vmms(); len(got) != 2 || !slices.Contains(got, stray) {
		t.Errorf("after AddVMM: got %+v, want two, one of them %+v", got, stray)
	}
	if err := f.KillMachine(ctx, name); err != nil || len(vmms()) > 0 {
		t.Errorf("killed: got %v and %+v, want none left", err, vmms())
	}
	f.SetPolicy(name, host.Policy{Extra: []string{"dns"}})
	if got, err := f.Policy(ctx, name); err != nil || got.AllowedCIDRs != nil || !slices.Equal(got.Extra, []string{"dns"}) {
		t.Errorf("policy: got %+v, %v, want the policy of SetPolicy", got, err)
	}
}
