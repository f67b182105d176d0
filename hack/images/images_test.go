// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/hack/internal/imagetar"
	"botbottle.dev/bottle-operator/test/require"
)

// builtPrograms builds this folder's own programs, and returns where they are.
var builtPrograms = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "images-")
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", dir, "./wget", "./pause")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("build wget and pause: %w\n%s", err, out)
	}
	return dir, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := builtPrograms(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

func testSources(t *testing.T) sources {
	t.Helper()
	dir, err := builtPrograms()
	if err != nil {
		t.Fatal(err)
	}
	return sources{shell: "bash-static", busybox: "busybox", wget: filepath.Join(dir, "wget"), pause: filepath.Join(dir, "pause")}
}

func testPrograms(t *testing.T) programs {
	t.Helper()
	p, err := readPrograms(testSources(t))
	if err != nil {
		require.Unmet(t, err.Error())
	}
	return p
}

// unpack returns the headers and contents of a tar, by name.
func unpack(t *testing.T, content []byte) (map[string]*tar.Header, map[string][]byte) {
	t.Helper()
	headers, contents := map[string]*tar.Header{}, map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(content))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return headers, contents
		}
		if err != nil {
			t.Fatalf("read tar: %v", err)
		}
		if _, duplicate := headers[h.Name]; duplicate {
			t.Errorf("got %s twice, want it once", h.Name)
		}
		headers[h.Name] = h
		if contents[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatalf("read %s: %v", h.Name, err)
		}
	}
}

func TestArchiveIsConsistent(t *testing.T) {
	t.Parallel()
	img := image{tag: "example.test/a:1", cmd: []string{"/a"}, files: []imagetar.File{imagetar.Regular("a", 0o755, []byte("x"))}}
	content, err := img.archive()
	if err != nil {
		t.Fatal(err)
	}
	headers, outer := unpack(t, content)
	for name, h := range headers {
		if !h.ModTime.Equal(epoch) {
			t.Errorf("%s: got time %s, want %s, so that builds are reproducible", name, h.ModTime, epoch)
		}
	}
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(outer["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 || len(manifest[0].Layers) != 1 {
		t.Fatalf("got %+v, want one image with one layer", manifest)
	}
	if diff := cmp.Diff([]string{"example.test/a:1"}, manifest[0].RepoTags); diff != "" {
		t.Errorf("RepoTags (-want +got):\n%s", diff)
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
		Config struct{ Cmd []string }
	}
	if err := json.Unmarshal(outer[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	if got, want := config.RootFS.DiffIDs, []string{"sha256:" + sum(outer[manifest[0].Layers[0]])}; !slices.Equal(got, want) {
		t.Errorf("got diff_ids %v, want %v", got, want)
	}
	if got, want := manifest[0].Config, sum(outer[manifest[0].Config])+".json"; got != want {
		t.Errorf("got config name %s, want %s", got, want)
	}
	if got, want := config.Config.Cmd, []string{"/a"}; !slices.Equal(got, want) {
		t.Errorf("got cmd %v, want %v", got, want)
	}
}

func TestRunIsReproducibleAndReplacesByRename(t *testing.T) {
	t.Parallel()
	testPrograms(t)
	from := testSources(t)
	one, two := t.TempDir(), t.TempDir()
	for _, dir := range []string{one, two} {
		if err := run(from, dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"guest.tar", "foreign-bundle.tar", "pause.tar"} {
		a, err := os.ReadFile(filepath.Join(one, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(two, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s: got two different archives from the same programs, want the same bytes", name)
		}
		info, err := os.Stat(filepath.Join(one, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o644 {
			t.Errorf("%s: got mode %o, want 644", name, got)
		}
	}
	// A hard link to the old archive must keep the old bytes.
	old := filepath.Join(one, "old")
	guest := filepath.Join(one, "guest.tar")
	if err := os.WriteFile(guest, []byte("stale"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(guest, old); err != nil {
		t.Fatal(err)
	}
	if err := run(from, one); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(old); err != nil || string(got) != "stale" {
		t.Errorf("old link: got %d bytes (%v), want the old content", len(got), err)
	}
}

func TestReadStaticRejectsDynamicLinking(t *testing.T) {
	t.Parallel()
	for _, dynamic := range []string{"/bin/ls", "/usr/bin/ls"} {
		if _, err := os.Stat(dynamic); err != nil {
			continue
		}
		_, err := readStatic(dynamic, "a hint")
		if err == nil || !strings.Contains(err.Error(), "dynamically linked") {
			t.Errorf("%s: got %v, want an error about dynamic linking", dynamic, err)
		}
		return
	}
	require.Unmet(t, "needs a dynamically linked executable at /bin/ls")
}

// guestRoot unpacks the guest image's layer into a folder.
func guestRoot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range guestImage(testPrograms(t)).files {
		path := filepath.Join(dir, f.Name)
		var err error
		switch f.Kind {
		case tar.TypeSymlink:
			err = os.Symlink(f.Link, path)
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, f.Content, os.FileMode(f.Mode))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mknod(filepath.Join(dir, "dev/null"), syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
		t.Fatal(err)
	}
	return dir
}

// inGuest runs a shell line in the guest's root file system and returns its
// output and exit code. It mounts /proc as in a real guest, because the shell
// runs its applets through it. Processes that the line leaves running end with
// the pid namespace.
func inGuest(t *testing.T, root, line string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "mount -t proc proc /proc; "+line)
	cmd.Dir, cmd.Env = "/", []string{searchPath, "MARK=seen"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Unshareflags: syscall.CLONE_NEWNS, Cloneflags: syscall.CLONE_NEWPID}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %q: %v", line, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestGuestRootRuns(t *testing.T) {
	t.Parallel()
	require.Root(t)
	root := guestRoot(t)
	for line, want := range map[string]string{
		"env | grep MARK":         "MARK=seen\n",
		"uname -s":                "Linux\n",
		"/usr/bin/env echo x":     "x\n",
		"id -un":                  "root\n",
		"ls -d /bin/nc":           "/bin/nc\n",
		"ls -d /bin/ip":           "/bin/ip\n",
		"ls -d /bin/nslookup":     "/bin/nslookup\n",
		"ls -d /bin/ping":         "/bin/ping\n",
		"touch /tmp/a && echo ok": "ok\n",
	} {
		if got, code := inGuest(t, root, line); got != want || code != 0 {
			t.Errorf("%s: got %q and exit code %d, want %q and 0", line, got, code, want)
		}
	}
	// The image's command ends immediately on SIGTERM.
	if got, code := inGuest(t, root, "sh -c '"+strings.ReplaceAll(guestCommand, "'", `'\''`)+"' & sleep 0.3; kill $!; wait $!"); code != 0 {
		t.Errorf("stopped command: got %q and exit code %d, want 0", got, code)
	}
}

func TestGuestWgetHasATimeout(t *testing.T) {
	t.Parallel()
	require.Root(t)
	root := guestRoot(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answer := []byte("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, 1024)
				n, _ := conn.Read(buf)
				if bytes.Contains(buf[:n], []byte("GET /fast")) {
					_, _ = conn.Write(answer)
					return
				}
				_, _ = conn.Read(buf) // send nothing until the client closes the connection
			}()
		}
	}()
	url := "http://" + l.Addr().String()
	for _, flags := range []string{"-q -O- -T 5", "-T5 -q -O-", "-qT 5 -O-", "-qO-"} {
		if got, code := inGuest(t, root, "wget "+flags+" "+url+"/fast"); got != "hi" || code != 0 {
			t.Errorf("wget %s: got %q and exit code %d, want hi and 0", flags, got, code)
		}
	}
	// A user sees the name that was typed, whichever way the program was started.
	for _, line := range []string{"wget -qO- http://127.0.0.1:1/ 2>&1", "sh -c 'exec wget -qO- http://127.0.0.1:1/' 2>&1"} {
		if got, code := inGuest(t, root, line); !strings.HasPrefix(got, "wget: ") || code != 1 {
			t.Errorf("%s: got %q and exit code %d, want an error of wget's and 1", line, got, code)
		}
	}
	start := time.Now()
	if got, code := inGuest(t, root, "wget -q -O- -T 1 "+url+"/slow"); code == 0 || code == 139 {
		t.Errorf("silent server: got %q and exit code %d, want a failure but no crash", got, code)
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("silent server: wget took %s, want it to stop after 1 s", took)
	}
}
