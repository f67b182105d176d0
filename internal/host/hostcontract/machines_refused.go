// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"path/filepath"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

func machineRefused(t *testing.T, f MachinesFixture) {
	v, _ := f.Machines.Version(t.Context())
	for name, change := range map[string]func(*host.MachineSpec){
		"absent Smolfile": func(s *host.MachineSpec) { s.Smolfile = filepath.Join(f.Dir, "nonexistent") },
		"absent image":    func(s *host.MachineSpec) { s.Image = filepath.Join(f.Dir, "nonexistent.tar") },
		"private image":   func(s *host.MachineSpec) { s.Image = writeFile(t, f, "private.tar", "x") },
		"relative mount":  mount("relative", "/x"),
		"mount target":    mount(f.Dir, "x"),
		"colon in mount":  mount(f.Dir, "/x:rw"),
		"absent mount":    mount(filepath.Join(f.Dir, "nonexistent"), "/x"),
		"relative secret": func(s *host.MachineSpec) { s.Secrets = []host.SecretFile{{Name: "A", Path: "relative"}} },
	} {
		if strings.HasSuffix(name, "image") && !v.LocalImages || name == "relative secret" && !v.SecretFiles {
			continue
		}
		m := newMachine(t, f)
		change(&m.spec)
		wantKind(t, name, f.Machines.CreateMachine(t.Context(), m.spec), host.ErrInvalid)
		if _, ok := m.find(t); ok {
			t.Errorf("%s: got a machine, want none", name)
		}
	}
}

func machineUnsupported(t *testing.T, f MachinesFixture) {
	v, _ := f.Machines.Version(t.Context())
	for name, tt := range map[string]struct {
		supported bool
		change    func(*host.MachineSpec)
	}{
		"image": {v.LocalImages, func(s *host.MachineSpec) { s.Image = f.Image }},
		"secrets": {v.SecretFiles, func(s *host.MachineSpec) {
			s.Secrets = []host.SecretFile{{Name: "A", Path: writeFile(t, f, "secret", "x")}}
		}},
		"command": {v.Command, func(s *host.MachineSpec) { s.Command = []string{"sleep", "1000"} }},
	} {
		if name == "image" && f.Image == "" {
			continue
		}
		m := newMachine(t, f)
		tt.change(&m.spec)
		err := f.Machines.CreateMachine(t.Context(), m.spec)
		if tt.supported && err != nil {
			t.Errorf("%s: got %v, want nil", name, err)
		}
		if !tt.supported {
			wantKind(t, name, err, host.ErrUnsupported)
		}
	}
}

func mount(source, target string) func(*host.MachineSpec) {
	return func(s *host.MachineSpec) { s.Mounts = []host.Mount{{Source: source, Target: target}} }
}
