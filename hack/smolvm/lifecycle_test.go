// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/onsi/gomega"

	"botbottle.dev/bottle-operator/test/require"
)

const smolfileText = `env = ["A=1", "TRIM=key\n", "NL=a\nb", "CTL=\u0001\u001b", "E=` + "\U0001F600" + `", "Q=\"'$x` + "`" + `\\", "NOEQ"]
[network]
allow_cidrs = ["192.168.44.2/32"]
`

// guestEnv returns the environment in the guest, by name.
func guestEnv(t *testing.T, w *world, name string) map[string]string {
	t.Helper()
	env := map[string]string{}
	for _, kv := range strings.Split(w.ok("machine", "exec", "--name", name, "--", "cat", "/proc/self/environ"), "\x00") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return env
}

func TestMachineLifecycle(t *testing.T) {
	require.Root(t)
	w := newWorld(t, "1.32.2")
	shown := w.home + "/ca"
	w.write("ca/ca.pem", "PEM")
	w.ok("machine", "create", "--name", "m1", "--cpus", "1", "--mem", "256", "--label", "botbottle.dev/uid=u1",
		"--image", w.image(`{"config":{"Env":["FROM=image","A=image"],"Cmd":["/bin/false"],"WorkingDir":"/etc"}}`),
		"--smolfile", w.write("Smolfile", smolfileText), "--secret-file", "SEC="+w.write("secret", "hunter2\n\n"),
		"-v", shown+":/run/ca:ro", "--", "/bin/sh", "-c", `echo started $FROM $A ${SEC:+secret}; trap "echo bye; exit" TERM; while :; do sleep 0.05; done`)

	r := w.run("machine", "start", "--name", "m1")
	if r.code != 0 || !strings.HasPrefix(r.out, "Machine 'm1' running (PID: ") || strings.Count(r.errors, "STAND-IN") != 1 {
		t.Fatalf("start: got %+v, want it running, and one notice that this is a stand-in", r)
	}
	if r := w.run("machine", "start", "--name", "m1"); r.code != 0 || !strings.Contains(r.out, "Machine 'm1' already running (PID: ") {
		t.Errorf("second start: got %+v, want already running", r)
	}
	want := map[string]string{
		"A": "1", "TRIM": "key", "NL": "a\nb", "CTL": "\x01\x1b", "E": "\U0001F600", "Q": "\"'$x`\\", "SEC": "hunter2", "FROM": "image",
		"HOME": "/root", "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	}
	if diff := cmp.Diff(want, guestEnv(t, w, "m1")); diff != "" {
		t.Errorf("environment in the guest: (-want +got)\n%s", diff)
	}
	if got := w.ok("machine", "exec", "--name", "m1", "--", "sh", "-c", "cat /run/ca/ca.pem; pwd; echo kept > /kept"); got != "PEM/etc\n" {
		t.Errorf("got %q, want the mounted file and the image's folder", got)
	}
	w.fails(1, "Read-only file system", "machine", "exec", "--name", "m1", "--", "sh", "-c", "echo x > /run/ca/y")
	checkNoTrace(t, w, "hunter2")

	w.ok("machine", "stop", "--name", "m1")
	if got := w.ok("machine", "logs", "--name", "m1"); !strings.HasPrefix(got, "started image 1 secret\n") || !strings.HasSuffix(got, "bye\n") {
		t.Errorf("logs: got %q, want the workload's whole output", got)
	}
	if got := w.ok("machine", "stop", "--name", "m1"); got != "Machine 'm1' is not running (state: stopped)\n" {
		t.Errorf("second stop: got %q", got)
	}
	w.ok("machine", "start", "--name", "m1")
	if got := w.ok("machine", "exec", "--name", "m1", "--", "cat", "/kept"); got != "kept\n" {
		t.Errorf("after stop and start: got %q, want the file written before", got)
	}
	pid := w.pid("m1")
	w.ok("machine", "delete", "--name", "m1", "-f")
	if err := syscall.Kill(pid, 0); err == nil {
		t.Errorf("process %d is alive after delete", pid)
	}
	if dirs, _ := filepath.Glob(w.home + "/.cache/smolvm/vms/[0-9a-f]*"); len(dirs) != 0 {
		t.Errorf("got %v after delete, want nothing left", dirs)
	}
}

// checkNoTrace fails the test if any file below HOME contains text, except the
// one that it came from, or if the argv or environment of the VMM does.
func checkNoTrace(t *testing.T, w *world, text string) {
	t.Helper()
	err := filepath.WalkDir(w.home, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".raw") || path == w.home+"/secret" {
			return err
		}
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), text) {
			t.Errorf("%s contains the secret", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"cmdline", "environ"} {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(w.pid("m1")) + "/" + file)
		if err != nil || strings.Contains(string(b), text) {
			t.Errorf("the VMM's %s: got %q, %v, want no secret", file, b, err)
		}
	}
}

func TestVMMRunsInNamespaceOfStart(t *testing.T) {
	require.Root(t)
	w := newWorld(t, "1.32.2")
	w.ok("machine", "create", "--name", "m1")
	c := w.command("machine", "start", "--name", "m1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if r := runCommand(t, c); r.code != 0 {
		t.Fatalf("start: got %+v", r)
	}
	pid := strconv.Itoa(w.pid("m1"))
	ours, _ := os.Readlink("/proc/self/ns/net")
	theirs, err := os.Readlink("/proc/" + pid + "/ns/net")
	if err != nil || ours == theirs {
		t.Errorf("VMM's network namespace: got %s, %v, want a different one from ours, %s", theirs, err, ours)
	}
	if got := w.ok("machine", "exec", "--name", "m1", "--", "ls", "/sys/class/net"); got != "lo\n" {
		t.Errorf("interfaces in the guest: got %q, want only the new namespace's lo", got)
	}
	if got := w.ok("machine", "exec", "--name", "m1", "--", "sh", "-c", "echo $$ $PPID; hostname"); !strings.HasSuffix(got, " 1\nm1\n") {
		t.Errorf("got %q, want pids from the guest's pid namespace and the machine's name", got)
	}
	b, err := os.ReadFile("/proc/" + pid + "/cmdline")
	if err != nil || !strings.HasPrefix(string(b), "/proc/self/exe\x00_boot-vm\x00/") {
		t.Errorf("VMM's argv: got %q, %v", b, err)
	}
	checkDetached(t, w, pid)
}

func checkDetached(t *testing.T, w *world, pid string) {
	t.Helper()
	for fd := range 3 {
		if to, err := os.Readlink("/proc/" + pid + "/fd/" + strconv.Itoa(fd)); err != nil || to != "/dev/null" {
			t.Errorf("VMM's descriptor %d: got %s, %v, want /dev/null", fd, to, err)
		}
	}
	n, _ := strconv.Atoi(pid)
	if group, err := syscall.Getpgid(n); err != nil || group != n {
		t.Errorf("VMM's process group: got %d, %v, want its own", group, err)
	}
	files, _ := filepath.Glob(w.home + "/.cache/smolvm/vms/*/agent.pid")
	if len(files) != 1 {
		t.Fatalf("got %v, want one agent.pid", files)
	}
	b, _ := os.ReadFile(files[0])
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	stat, _ := os.ReadFile("/proc/" + pid + "/stat")
	if len(lines) != 2 || lines[0] != pid || !strings.Contains(string(stat), " "+lines[1]+" ") {
		t.Errorf("agent.pid: got %q, want %s and its start time", b, pid)
	}
}

func TestKilledMachine(t *testing.T) {
	require.Root(t)
	w := newWorld(t, "1.32.2")
	g := gomega.NewWithT(t)
	w.ok("machine", "create", "--name", "m1")
	w.ok("machine", "start", "--name", "m1")
	pid := w.pid("m1")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	g.Eventually(func() any { return w.status("m1")["state"] }).WithTimeout(patience).Should(gomega.Equal("stopped"))
	v := w.status("m1")
	exit, _ := v["last_exit"].(map[string]any)
	if v["pid"] != float64(pid) || exit["signal"] != float64(9) || exit["pid"] != float64(pid) {
		t.Errorf("got pid %v, last_exit %v, want the dead pid %d and signal 9", v["pid"], exit, pid)
	}
	w.fails(1, "machine 'm1' is not running", "machine", "exec", "--name", "m1", "--", "true")
	w.ok("machine", "start", "--name", "m1")
	if now := w.status("m1"); now["state"] != "running" || now["pid"] == float64(pid) {
		t.Errorf("after another start: got %v", now)
	}
}

func TestDeleteByRelease(t *testing.T) {
	require.Root(t)
	old := newWorld(t, "0.8.0")
	old.ok("machine", "create", "m1")
	old.ok("machine", "start", "--name", "m1")
	pid := old.pid("m1")
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	if got := old.ok("machine", "delete", "m1"); got != "Cancelled\n" {
		t.Errorf("0.8.0 without -f: got %q, want Cancelled", got)
	}
	old.ok("machine", "delete", "m1", "-f")
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("0.8.0: got %v, want the process left running, like that release does", err)
	}
	if got := old.ok("machine", "stop", "--name", "m1"); got != "Machine 'm1' not found or not running\n" {
		t.Errorf("0.8.0 stop of an unknown machine: got %q", got)
	}
	w := newWorld(t, "1.32.2")
	w.ok("machine", "create", "--name", "m1")
	w.fails(1, "needs confirmation but stdin is not a terminal", "machine", "delete", "--name", "m1")
	w.fails(1, "vm not found: m2", "machine", "stop", "--name", "m2")
}

func TestArchiveMustBeReadableByOthers(t *testing.T) {
	require.Root(t)
	w := newWorld(t, "1.32.2")
	archive := w.image(`{"config":{"Cmd":["/bin/true"]}}`)
	if err := os.Chmod(archive, 0o600); err != nil {
		t.Fatal(err)
	}
	w.ok("machine", "create", "--name", "m1", "--image", archive)
	w.fails(1, "run container detached: Permission denied (os error 13)", "machine", "start", "--name", "m1")
	if err := os.Chmod(archive, 0o644); err != nil { // the cached archive is a hard link to it
		t.Fatal(err)
	}
	w.ok("machine", "start", "--name", "m1")
	w.ok("machine", "stop", "--name", "m1")
	if err := os.Chmod(w.home, 0o700); err != nil {
		t.Fatal(err)
	}
	w.fails(1, "Permission denied (os error 13)", "machine", "start", "--name", "m1")
}

func TestInstalledLayout(t *testing.T) {
	dir := filepath.Join(installed, "0.8.0")
	for _, f := range []string{"lib/libkrun.so.1", "lib/libkrunfw.so.5", "storage-template.ext4", "overlay-template.ext4"} {
		if st, err := os.Stat(filepath.Join(dir, f)); err != nil || st.Size() == 0 || st.Mode()&0o044 != 0o044 {
			t.Errorf("%s: got %v, %v, want a file that everyone may read", f, st, err)
		}
	}
	c := exec.Command(filepath.Join(dir, "smolvm"), "--version")
	c.Env = []string{"HOME=/"}
	if r := runCommand(t, c); r != (result{0, "smolvm 0.8.0\n", ""}) {
		t.Errorf("--version: got %+v, want only smolvm 0.8.0", r)
	}
	c = exec.Command(filepath.Join(dir, "smolvm"), "--version")
	c.Env = []string{"HOME=/", "SMOLVM_STANDIN_VERSION=1.9.1"}
	if r := runCommand(t, c); r.out != "smolvm 1.9.1\n" {
		t.Errorf("--version: got %+v, want 1.9.1 from the environment", r)
	}
}
