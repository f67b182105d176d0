// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"botbottle.dev/bottle-operator/internal/supervise"
	"botbottle.dev/bottle-operator/test/require"
)

// inTinyFolder makes the guest run with a report folder that is a tmpfs of its own, in
// a mount namespace of its own, after a preparation. It returns the folder as seen from
// outside.
func (g *guest) inTinyFolder(prepare string) (seen func() string) {
	g.Helper()
	require.Root(g.T)
	script := fmt.Sprintf(`mount -t tmpfs -o size=64k,nr_inodes=8,mode=0777 out %[1]s && cd %[1]s && %s && cd / && exec "$0" "$@"`, g.out, prepare)
	argv := append([]string{"-c", script, g.cmd.Path}, g.cmd.Args[1:]...)
	env := g.cmd.Env
	g.cmd = exec.Command("sh", argv...)
	g.cmd.Env, g.cmd.Stdout, g.cmd.Stderr, g.cmd.WaitDelay = env, g.log, os.Stderr, patience
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	return func() string { return filepath.Join("/proc", fmt.Sprint(g.cmd.Process.Pid), "root", g.out) }
}

// fill fills the folder: bytes first, then inodes.
const fill = `{ dd if=/dev/zero of=big bs=1k 2>/dev/null; for i in 1 2 3 4 5 6 7 8; do true >f$i; done 2>/dev/null; true; }`

// TestFullFolder: the report is written into the file that the agent made, although
// the folder is full, and although it fills up while the workload runs.
func TestFullFolder(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]string{
		"an empty file that was filled up": `true >report.json && chmod 666 report.json && dd if=/dev/zero of=report.json bs=4k count=1 2>/dev/null && ` + fill,
		"a file that the guest grew":       `dd if=/dev/zero of=report.json bs=1k 2>/dev/null; ` + fill,
	} {
		t.Run(name, func(t *testing.T) {
			g := shell(t, never, "exit 5")
			folder := g.inTinyFolder(prepare)
			g.run()
			r := g.awaitIn(folder(), "final", final)
			if r.ExitCode == nil || *r.ExitCode != 5 {
				t.Errorf("got %+v, want exit code 5", r)
			}
			if info, err := os.Stat(filepath.Join(folder(), supervise.ReportFile)); err != nil || info.Size() != supervise.MaxReport {
				t.Errorf("got %v, %v, want a record of %d bytes", info, err, supervise.MaxReport)
			}
		})
	}
	t.Run("the workload fills it", func(t *testing.T) {
		g := shell(t, never, "")
		g.cmd.Args[len(g.cmd.Args)-1] = "cd " + g.out + "; " + fill + "; exit 6"
		folder := g.inTinyFolder("true")
		g.run()
		if r := g.awaitIn(folder(), "final", final); r.ExitCode == nil || *r.ExitCode != 6 {
			t.Errorf("got %+v, want exit code 6", r)
		}
	})
}

// TestNoRoomForAReport: without a file, a full folder delays the report until there is
// room, and nothing else. The log tells the outcome meanwhile.
func TestNoRoomForAReport(t *testing.T) {
	t.Parallel()
	g := shell(t, never, "echo out; exit 7")
	folder := g.inTinyFolder(fill)
	g.run()
	g.awaitLog("the report cannot be written: ")
	g.awaitLog("stdout F out\n")
	g.awaitLog("system F exit 7\n")
	if strings.Count(g.log.String(), "cannot be written") != 1 {
		t.Errorf("got %s, want the failure once", g.log.String())
	}
	a := g.attach()
	if code := a.code(t); code != 7 {
		t.Errorf("attach: got %d, want 7", code)
	}
	for _, name := range []string{"big", "f1", "f2"} {
		if err := os.Remove(filepath.Join(folder(), name)); err != nil {
			t.Log(err) // there may be fewer
		}
	}
	if r := g.awaitIn(folder(), "final", final); r.ExitCode == nil || *r.ExitCode != 7 {
		t.Errorf("got %+v, want exit code 7", r)
	}
}

// TestSomethingInTheFilesPlace: whatever the guest puts there is replaced. Nothing is
// written through a link, and a pipe holds up nothing.
func TestSomethingInTheFilesPlace(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(path, other string) error{
		"a folder": func(path, _ string) error { return os.MkdirAll(path+"/a/b", 0o755) },
		"a link":   func(path, other string) error { return os.Symlink(other, path) },
		"a link to nothing": func(path, other string) error {
			return os.Symlink(other+".none", path)
		},
		"a pipe": func(path, _ string) error { return syscall.Mkfifo(path, 0o666) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := shell(t, never, "exit 8")
			other := filepath.Join(t.TempDir(), "other")
			if err := os.WriteFile(other, []byte("untouched"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := make(filepath.Join(g.out, supervise.ReportFile), other); err != nil {
				t.Fatal(err)
			}
			g.run()
			g.await("final", final)
			if info, err := os.Lstat(filepath.Join(g.out, supervise.ReportFile)); err != nil || !info.Mode().IsRegular() {
				t.Errorf("got %v, %v, want a file", info, err)
			}
			if text, err := os.ReadFile(other); err != nil || string(text) != "untouched" {
				t.Errorf("got %q, %v, want the link's target untouched", text, err)
			}
			if _, err := os.Stat(other + ".none"); err == nil {
				t.Error("a file was made through the link")
			}
		})
	}
}

// TestUnprivileged: a user other than root reports through the file that the agent
// made, in a folder where it can make none.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	require.Root(t)
	g := shell(t, never, "id -u; exit 9")
	path := filepath.Join(g.out, supervise.ReportFile)
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(g.out, 0o755); err != nil {
		t.Fatal(err)
	}
	for d := g.in; d != "/"; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err == nil && info.Mode()&0o001 == 0 {
			if err := os.Chmod(d, info.Mode()|0o011); err != nil {
				t.Fatal(err)
			}
		}
	}
	program := filepath.Join(g.in, "program")
	data, err := os.ReadFile(g.cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o755); err != nil {
		t.Fatal(err)
	}
	g.cmd.Path = program
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	g.run()
	if r := g.await("final", final); r.ExitCode == nil || *r.ExitCode != 9 {
		t.Errorf("got %+v, want exit code 9", r)
	}
	g.awaitLog("stdout F 65534\n")
}
