// SPDX-License-Identifier: Apache-2.0

package plugin_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// below puts "x/" before each name of an archive.
func below(r io.Reader) (io.Reader, error) {
	var b bytes.Buffer
	in, out := tar.NewReader(r), tar.NewWriter(&b)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return &b, out.Close()
		}
		if err != nil {
			return nil, err
		}
		h.Name = "x/" + h.Name
		if h.Typeflag == tar.TypeLink {
			h.Linkname = "x/" + h.Linkname
		}
		if err := out.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := io.Copy(out, in); err != nil {
			return nil, err
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

func TestCp(t *testing.T) {
	root, local := t.TempDir(), t.TempDir()
	c := newCluster(t)
	c.put(ready("demo"))
	c.guest = tarGuest(root, func(*session) {})
	write := func(path, text string) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) {
		t.Helper()
		if got := c.bottle(append([]string{"cp"}, args...)...); got.code != 0 || got.out != "" || got.errOut != "" {
			t.Fatalf("cp %q: got %+v", args, got)
		}
	}
	write(filepath.Join(local, "src/a"), "1")
	write(filepath.Join(local, "src/sub/b"), "2")
	run(filepath.Join(local, "src"), "demo:/work")
	run(filepath.Join(local, "src"), "demo:/into/")
	if read(t, root+"/work/sub/b") != "2" || read(t, root+"/into/src/a") != "1" {
		t.Error("the folder is not where it should be in the guest")
	}
	run("demo:/work", filepath.Join(local, "new"))
	run("demo:/work", local)
	run("demo:/work/a", filepath.Join(local, "a"))
	for _, path := range []string{"new/a", "work/a", "a"} {
		if read(t, filepath.Join(local, path)) != "1" {
			t.Errorf("%s has other contents", path)
		}
	}
	got := c.bottle("cp", "demo:/work/a", "-")
	if h, err := tar.NewReader(strings.NewReader(got.out)).Next(); err != nil || h.Name != "a" {
		t.Errorf("got %+v, %v", h, err)
	}
	stream, err := os.ReadFile(filepath.Join(local, "a"))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	_ = w.WriteHeader(&tar.Header{Name: "p", Size: int64(len(stream)), Mode: 0o600})
	_, _ = w.Write(stream)
	_ = w.Close()
	if got := c.input(b.String(), "cp", "-", "demo:/piped"); err != nil || got.code != 0 || read(t, root+"/piped/p") != "1" {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, s := range c.sessions {
		if s.query.Get("purpose") != "Files" {
			t.Errorf("got purpose %q", s.query.Get("purpose"))
		}
	}
}

func TestCpFails(t *testing.T) {
	for name, tt := range map[string]struct {
		guest func(*session) int
		args  []string
		want  string
	}{
		"guest fails": {func(s *session) int { _, _ = io.WriteString(s.err, "/a: no such\x1b file\n"); return 1 }, []string{"demo:/a", "{dir}/a"}, `the copy failed in the guest: /a: no such\x1b file`},
		"guest fails after a part": {func(s *session) int {
			w := tar.NewWriter(s.out)
			_ = w.WriteHeader(&tar.Header{Name: "a", Size: 1000})
			_, _ = w.Write(make([]byte, 500))
			return 1
		}, []string{"demo:/a", "{dir}/a"}, "the copy failed in the guest"},
		"half an archive": {func(s *session) int {
			w := tar.NewWriter(s.out)
			_ = w.WriteHeader(&tar.Header{Name: "a", Size: 1000})
			_ = w.Flush()
			return 0
		}, []string{"demo:/a", "{dir}/a"}, "unexpected EOF"},
		"nothing":    {func(*session) int { return 0 }, []string{"demo:/a", "{dir}/a"}, "the guest sent no file"},
		"no archive": {func(s *session) int { _, _ = s.out.Write(bytes.Repeat([]byte("x"), 2000)); return 0 }, []string{"demo:/a", "{dir}/a"}, "invalid tar header"},
		"no program": {func(*session) int { return 127 }, []string{"demo:/a", "{dir}/a"}, "no program for copying"},
		"no local":   {func(s *session) int { _, _ = io.Copy(io.Discard, s.in); return 0 }, []string{"{dir}/absent", "demo:/a"}, "no such file"},
		"not read":   {func(*session) int { return 1 }, []string{"{dir}", "demo:/a"}, "the copy failed in the guest"},
		"outside":    {func(s *session) int { return hostileTar(s.out) }, []string{"demo:/a", "{dir}/a"}, "malformed or hostile"},
		"never-ending": {func(s *session) int {
			hostileTar(s.out)
			for {
				if _, err := s.out.Write(make([]byte, 1<<16)); err != nil {
					return 0
				}
			}
		}, []string{"demo:/a", "{dir}/a"}, "malformed or hostile"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			c.put(ready("demo"))
			c.guest = tt.guest
			dir := t.TempDir()
			args := []string{"cp"}
			for _, a := range tt.args {
				args = append(args, strings.ReplaceAll(a, "{dir}", dir))
			}
			if got := c.bottle(args...); got.code != 1 || !strings.Contains(got.errOut, tt.want) {
				t.Errorf("got %+v, want %q", got, tt.want)
			}
		})
	}
}

// hostileTar begins an archive that leads out of its target.
func hostileTar(w io.Writer) int {
	out := tar.NewWriter(w)
	_ = out.WriteHeader(&tar.Header{Name: "a/../../victim", Typeflag: tar.TypeReg})
	_ = out.Flush()
	return 0
}

// TestCpWithTheGuestsTar is for guests without our program.
func TestCpWithTheGuestsTar(t *testing.T) {
	root, local := t.TempDir(), t.TempDir()
	c := newCluster(t)
	c.put(ready("demo"))
	c.guest = func(s *session) int {
		if s.command[0] != "tar" {
			return 127
		}
		cmd := exec.Command("tar", append([]string{"-C", root}, s.command[1:]...)...)
		cmd.Args[4] = filepath.Join(root, cmd.Args[4]) // the folder of -C
		cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
		if err := cmd.Run(); err != nil {
			return 1
		}
		return 0
	}
	if err := os.WriteFile(filepath.Join(local, "a"), []byte("text"), 0o640); err != nil {
		t.Fatal(err)
	}
	if got := c.bottle("cp", filepath.Join(local, "a"), "demo:/b"); got.code != 0 {
		t.Fatalf("got %+v", got)
	}
	if got := c.bottle("cp", "demo:/b", filepath.Join(local, "c")); got.code != 0 || read(t, filepath.Join(local, "c")) != "text" {
		t.Errorf("got %+v", got)
	}
}

// TestCpWaitsForTheMachine of a finished Bottle.
func TestCpWaitsForTheMachine(t *testing.T) {
	root := t.TempDir()
	c := newCluster(t)
	c.put(ready("demo"))
	c.guest = tarGuest(root, func(*session) {})
	if err := os.WriteFile(filepath.Join(root, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET exec", "POST exec"} {
		c.refuse[method] = []metav1.Status{status(503, metav1.StatusReasonServiceUnavailable, "the machine is being started")}
	}
	got := c.bottle("cp", "demo:/a", filepath.Join(t.TempDir(), "a"))
	if got.code != 0 || got.errOut != "Waiting for the machine: the machine is being started\n" {
		t.Errorf("got %+v", got)
	}
}
