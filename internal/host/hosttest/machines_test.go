// SPDX-License-Identifier: Apache-2.0

package hosttest_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

func TestMachines(t *testing.T) {
	oldest := host.SmolvmVersion{Version: "0.8.0"}
	for _, v := range []host.SmolvmVersion{hosttest.Reference, oldest} {
		t.Run(v.Version, func(t *testing.T) {
			hostcontract.TestMachines(t, func(t *testing.T) hostcontract.MachinesFixture {
				return machinesFixture(t, v)
			}, hostcontract.MachineOptions{WithoutWorkload: true})
		})
	}
}

func machinesFixture(t *testing.T, v host.SmolvmVersion) hostcontract.MachinesFixture {
	f := hosttest.NewMachines(nil)
	f.SetVersion(v)
	dir := t.TempDir()
	image := filepath.Join(dir, "guest.tar")
	if err := os.WriteFile(image, []byte("image"), 0o644); err != nil {
		t.Fatal(err)
	}
	return hostcontract.MachinesFixture{
		Machines: f, Dir: dir, Image: image,
		StoredEnv: func(_ *testing.T, name string) []string { return f.StoredEnv(name) },
		Where: func(_ *testing.T, text string) (places []string) {
			for _, name := range f.Names() {
				if strings.Contains(strings.Join(f.StoredEnv(name), "\n"), text) {
					places = append(places, name)
				}
			}
			return places
		},
		Left: func(_ *testing.T, name string) (left []string) {
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
	}
}
