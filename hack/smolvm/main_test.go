// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/test/require"
)

// installed holds one folder per release, made by hack/standin-install.
var installed string

// TestMain runs the tests in a child process. The parent adopts machines and
// reaps them as soon as they end, like a node's init. It does not rely on the
// container's first process, which may be slow, because an unreaped VMM counts
// as alive.
func TestMain(m *testing.M) {
	if os.Getenv("STANDIN_TEST_CHILD") == "" {
		os.Exit(adoptAndWait())
	}
	dir, err := os.MkdirTemp("", "standin-")
	if err != nil {
		panic(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		panic(err)
	}
	installed = dir
	for _, v := range []string{"0.8.0", "1.9.1", "1.32.2"} {
		if out, err := exec.Command("../standin-install", v, filepath.Join(dir, v)).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "standin-install %s: %v\n%s", v, err, out)
			os.Exit(1)
		}
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func adoptAndWait() int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	child, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env: append(os.Environ(), "STANDIN_TEST_CHILD=1"), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		panic(err)
	}
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return 1
		}
		if pid == child.Pid {
			if ws.Signaled() {
				return 128 + int(ws.Signal())
			}
			return ws.ExitStatus()
		}
	}
}

// world is a HOME directory and a release of the stand-in.
type world struct {
	t    *testing.T
	home string
	dir  string
	env  []string
}

func newWorld(t *testing.T, version string) *world {
	t.Helper()
	home := t.TempDir()
	// A machine's VMM runs as a separate user, which must be able to reach its files.
	for d := home; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(installed, version)
	w := &world{t, home, dir, []string{
		"HOME=" + home, "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "SMOLVM_LIB_DIR=" + dir + "/lib", "SMOLVM_AGENT_ROOTFS=" + dir + "/agent-rootfs",
	}}
	t.Cleanup(w.killAll)
	return w
}

// killAll kills every VMM of this world, including those without a record.
func (w *world) killAll() {
	for _, pid := range vmmPIDs(w) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// vmmPIDs returns the pids in all agent.pid files of this world.
func vmmPIDs(w *world) []int {
	var pids []int
	files, _ := filepath.Glob(w.home + "/.cache/smolvm/vms/*/agent.pid")
	for _, f := range files {
		var pid int
		b, _ := os.ReadFile(f)
		if _, err := fmt.Sscan(string(b), &pid); err == nil && pid > 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}

type result struct {
	code        int
	out, errors string
}

func (w *world) command(argv ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	w.t.Cleanup(cancel)
	c := exec.CommandContext(ctx, filepath.Join(w.dir, "smolvm"), argv...)
	c.Env = w.env
	return c
}

// runCommand runs c and returns its exit code and output.
func runCommand(t *testing.T, c *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{c.ProcessState.ExitCode(), out.String(), errs.String()}
}

func (w *world) run(argv ...string) result {
	w.t.Helper()
	return runCommand(w.t, w.command(argv...))
}

// ok runs a command that must succeed and returns its stdout.
func (w *world) ok(argv ...string) string {
	w.t.Helper()
	r := w.run(argv...)
	if r.code != 0 {
		w.t.Fatalf("%s: got rc %d, %s, want 0", strings.Join(argv, " "), r.code, r.errors)
	}
	return r.out
}

// fails runs a command that must fail with this exit code, want in stderr and
// nothing on stdout.
func (w *world) fails(code int, want string, argv ...string) {
	w.t.Helper()
	r := w.run(argv...)
	if r.code != code || !strings.Contains(r.errors, want) || r.out != "" {
		w.t.Errorf("%s: got rc %d, stdout %q, stderr %q, want rc %d and %q", strings.Join(argv, " "), r.code, r.out, r.errors, code, want)
	}
}

// status returns the JSON of `machine status`.
func (w *world) status(name string) map[string]any {
	w.t.Helper()
	v := map[string]any{}
	if err := json.Unmarshal([]byte(w.ok("machine", "status", "--name", name, "--json")), &v); err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) pid(name string) int {
	w.t.Helper()
	pid, ok := w.status(name)["pid"].(float64)
	if !ok {
		w.t.Fatalf("%s has no pid", name)
	}
	return int(pid)
}

// setFaults replaces faults.json.
func (w *world) setFaults(text string) {
	w.t.Helper()
	w.write(".standin/faults.json", text)
}

func (w *world) write(path, text string) string {
	w.t.Helper()
	path = filepath.Join(w.home, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// image writes a docker-save archive with busybox and the given image config.
func (w *world) image(config string) string {
	w.t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		require.Unmet(w.t, "needs a static /bin/busybox: install busybox-static")
	}
	files := []tarFile{{"bin/busybox", string(program), ""}, {"etc/passwd", "root:x:0:0::/root:/bin/sh\nworker:x:1000:1000::/home:/bin/sh\n", ""}}
	for _, a := range []string{"sh", "cat", "echo", "env", "sleep", "id", "stty", "ls", "head", "ip", "pwd", "kill", "true"} {
		files = append(files, tarFile{"bin/" + a, "", "busybox"})
	}
	layer := tarOf(w.t, files...)
	return w.write("image.tar", string(tarOf(w.t, tarFile{"l/layer.tar", string(layer), ""},
		tarFile{"c.json", config, ""}, tarFile{"manifest.json", `[{"Config":"c.json","Layers":["l/layer.tar"]}]`, ""})))
}

type tarFile struct{ name, text, link string }

func tarOf(t *testing.T, files ...tarFile) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.text)), Typeflag: tar.TypeReg, Linkname: f.link}
		if f.link != "" {
			h.Typeflag = tar.TypeSymlink
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
