// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/runner"
	"botbottle.dev/bottle-operator/test/require"
)

// planted are the things that a VMM's user can put in place of a file in its
// folder.
var planted = map[string]func(t *testing.T, path string){
	"FIFO":      func(t *testing.T, path string) { ok(t, unix.Mkfifo(path, 0o600)) },
	"/dev/zero": func(t *testing.T, path string) { ok(t, os.Symlink("/dev/zero", path)) },
	"huge file": func(t *testing.T, path string) {
		ok(t, os.WriteFile(path, nil, 0o600))
		ok(t, os.Truncate(path, 1<<30))
	},
	"folder": func(t *testing.T, path string) { ok(t, os.Mkdir(path, 0o700)) },
	"socket": func(t *testing.T, path string) {
		t.Chdir(filepath.Dir(path)) // the path itself may be too long
		l, err := net.Listen("unix", filepath.Base(path))
		ok(t, err)
		t.Cleanup(func() { l.Close() })
	},
	"link to another machine's": func(t *testing.T, path string) { ok(t, os.Symlink("../other/agent.pid", path)) },
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Whatever is in one machine's folder, it neither blocks a list nor costs the
// agent memory.
func TestListWithPlantedPIDFile(t *testing.T) {
	for what, plant := range planted {
		t.Run(what, func(t *testing.T) {
			c, d := newCLI(t, "1.32.2")
			bad, good := specOf("bad").Owner.ID(), specOf("good").Owner.ID()
			c.states[bad], c.states[good] = "running", "running"
			ok(t, os.MkdirAll(d.dataDir(bad), 0o755))
			plant(t, filepath.Join(d.dataDir(bad), "agent.pid"))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			done := make(chan []host.Machine, 1)
			go func() {
				list, err := d.ListMachines(t.Context())
				if err != nil {
					t.Errorf("list: got %v, want nil", err)
				}
				done <- list
			}()
			select {
			case list := <-done:
				if len(list) != 2 || list[0].PID != 0 || list[0].State != host.MachineRunning {
					t.Errorf("list: got %+v, want both machines, the bad one without a PID", list)
				}
			case <-time.After(30 * time.Second):
				t.Error("list: got no answer in 30 s, want one immediately")
			}
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
				t.Errorf("got %d bytes allocated, want the planted file not to be read", got)
			}
		})
	}
}

// Deleting a machine removes everything that its VMM left in the machine's
// folder, and nothing outside it.
func TestDeleteRemovesPlantedFiles(t *testing.T) {
	_, d := newCLI(t, "1.32.2")
	name := specOf("demo").Owner.ID()
	dir, outside := d.dataDir(name), t.TempDir()
	kept := filepath.Join(outside, "kept")
	ok(t, os.WriteFile(kept, nil, 0o600))
	for what, plant := range planted {
		at := filepath.Join(dir, strings.ReplaceAll(what, "/", "_"), "deeper")
		ok(t, os.MkdirAll(at, 0o755))
		plant(t, filepath.Join(at, "x"))
	}
	ok(t, os.Symlink(outside, filepath.Join(dir, "link")))
	ok(t, d.DeleteMachine(t.Context(), name))
	if !absent(dir) || absent(kept) {
		t.Errorf("folder removed: %v, target of a link removed: %v; want true and false", absent(dir), absent(kept))
	}
}

// A mount below a machine's folder prevents its deletion. A mount below a folder
// whose name only has the same prefix does not.
func TestDeleteWithMount(t *testing.T) {
	require.Root(t)
	_, d := newCLI(t, "1.32.2")
	name := specOf("demo").Owner.ID()
	dir, shared := d.dataDir(name), t.TempDir()
	ok(t, os.WriteFile(filepath.Join(shared, "kept"), nil, 0o600))
	mount := func(at string) (unmount func()) {
		ok(t, os.MkdirAll(at, 0o755))
		ok(t, unix.Mount(shared, at, "", unix.MS_BIND, ""))
		return func() { _ = unix.Unmount(at, unix.MNT_DETACH) }
	}
	ok(t, os.MkdirAll(dir, 0o755))
	defer mount(dir + "-of-another")()
	if err := d.DeleteMachine(t.Context(), name); err != nil || !absent(dir) {
		t.Errorf("a mount next to it: got %v, want the folder removed", err)
	}
	unmount := mount(dir + "/layer with a space")
	if err := d.DeleteMachine(t.Context(), name); err == nil || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("a mount in it: got %v, want an error that names the reason", err)
	}
	unmount()
	if err := d.DeleteMachine(t.Context(), name); err != nil || !absent(dir) || absent(filepath.Join(shared, "kept")) {
		t.Errorf("after unmount: got %v, want the folder removed and the mounted files kept", err)
	}
}

// smolvm opens files in the machines' folders as root. The Driver removes what
// smolvm would block on or follow before it calls smolvm.
func TestPlantedFilesAreRemovedBeforeCalls(t *testing.T) {
	c, d := newCLI(t, "1.32.2")
	bad, good := specOf("bad").Owner.ID(), specOf("good").Owner.ID()
	c.states[bad], c.states[good] = "running", "running"
	dir := d.dataDir(bad)
	ok(t, os.MkdirAll(dir, 0o755))
	for call, do := range map[string]func() error{
		"list": func() error { _, err := d.ListMachines(t.Context()); return err },
		"exec": func() error {
			_, err := d.Exec(t.Context(), good, host.ExecRequest{Command: []string{"true"}})
			return err
		},
		"start": func() error { return d.StartMachine(t.Context(), good, "") },
		"stop":  func() error { return d.StopMachine(t.Context(), good) },
	} {
		t.Run(call, func(t *testing.T) {
			c.states[good] = "running"
			ok(t, os.WriteFile(filepath.Join(dir, "storage.raw"), nil, 0o600))
			ok(t, unix.Mkfifo(filepath.Join(dir, "name"), 0o600))
			ok(t, unix.Mkfifo(filepath.Join(dir, "vmm-exit.json"), 0o600))
			ok(t, os.Symlink("/etc/cron.d/x", filepath.Join(dir, "of-a-later-release")))
			c.fail = func(string) (runner.Result, bool) {
				for _, name := range []string{"name", "vmm-exit.json", "of-a-later-release"} {
					if !absent(filepath.Join(dir, name)) {
						t.Errorf("%s exists while smolvm runs, want it removed", name)
					}
				}
				if absent(filepath.Join(dir, "storage.raw")) {
					t.Error("storage.raw was removed, want it kept")
				}
				return runner.Result{}, false
			}
			ok(t, do())
		})
	}
}
