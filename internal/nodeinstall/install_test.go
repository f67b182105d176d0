// SPDX-License-Identifier: Apache-2.0

package nodeinstall

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/sparsefile"
	"botbottle.dev/bottle-operator/test/require"
)

// node is a node's root and a payload.
type node struct {
	*testing.T
	root, payload string
	// proc lists the processes that count: a test may not be allowed to inspect others.
	proc string
}

func newNode(t *testing.T) *node {
	n := &node{T: t, root: t.TempDir(), proc: t.TempDir()}
	n.must(os.Chmod(n.root, 0o755))
	n.addProcess(os.Getpid())
	return n
}

func (n *node) addProcess(pid int) {
	n.Helper()
	n.must(os.Symlink(filepath.Join("/proc", strconv.Itoa(pid)), filepath.Join(n.proc, strconv.Itoa(pid))))
}

func (n *node) must(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

// pack makes a payload of files. A content that starts with "->" is a link's target.
func (n *node) pack(files map[string]string) {
	n.Helper()
	n.payload = n.TempDir()
	for name, content := range files {
		path := filepath.Join(n.payload, name)
		n.must(os.MkdirAll(filepath.Dir(path), 0o700))
		if target, ok := strings.CutPrefix(content, "->"); ok {
			n.must(os.Symlink(target, path))
			continue
		}
		n.must(os.WriteFile(path, []byte(content), 0o700))
	}
}

func (n *node) options(version string) Options {
	return Options{From: n.payload, HostRoot: n.root, Name: "smolvm", Version: version, Proc: n.proc}
}

func (n *node) install(version string) Result {
	n.Helper()
	r, err := Install(n.Context(), n.options(version))
	n.must(err)
	if r.Kept != nil {
		n.Fatalf("got %v, want unused versions removed", r.Kept)
	}
	return r
}

// matches reports whether a version is recognised without digests.
func (n *node) matches(version string) bool {
	n.Helper()
	source, err := openSource(n.payload, nil)
	n.must(err)
	defer source.root.Close()
	p, err := openPlace(n.Context(), n.root, "smolvm")
	n.must(err)
	defer p.close()
	return p.matches(n.Context(), source, version)
}

func (n *node) path(name ...string) string {
	return filepath.Join(append([]string{n.root, "opt/smolvm"}, name...)...)
}

func (n *node) wantFile(name, want string) {
	n.Helper()
	if got, err := os.ReadFile(n.path(name)); err != nil || string(got) != want {
		n.Errorf("%s: got %q, %v, want %q", name, got, err, want)
	}
}

func (n *node) wantVersions(want ...string) {
	n.Helper()
	entries, err := os.ReadDir(n.path("versions"))
	n.must(err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		n.Errorf("got versions %q, want %q", got, want)
	}
}

func TestInstallSwitchesBetweenVersions(t *testing.T) {
	n := newNode(t)
	n.pack(map[string]string{"smolvm": "one", "lib/libkrun.so.1": "lib", "lib/libkrun.so": "->libkrun.so.1", "agent-rootfs/bin/sh": "->/bin/busybox"})
	r := n.install("1.0")
	if !r.Copied || !r.Switched || r.Version != "1.0" {
		t.Errorf("got %+v, want 1.0 copied and current", r)
	}
	n.wantFile("current/smolvm", "one")
	n.wantFile("current/lib/libkrun.so", "lib")
	if got, err := os.Readlink(n.path("current/agent-rootfs/bin/sh")); got != "/bin/busybox" {
		t.Errorf("got the link %q, %v, want it as it was", got, err)
	}
	for name, want := range map[string]os.FileMode{"": 0o755, "versions": 0o755, "versions/1.0": 0o755, "current/smolvm": 0o755, "current/lib": 0o755} {
		if info, err := os.Stat(n.path(name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%q: got %v, %v, want mode %o", name, info, err, want)
		}
	}
	if r := n.install("1.0"); r.Copied || r.Switched {
		t.Errorf("the second time: got %+v, want nothing done", r)
	}
	first := n.payload
	n.pack(map[string]string{"smolvm": "two"})
	n.install("2.0")
	n.wantFile("current/smolvm", "two")
	n.wantFile("previous/smolvm", "one")
	n.wantVersions("1.0", "2.0")
	// Back to the first one, which is still there.
	n.payload = first
	if r := n.install("1.0"); r.Copied || !r.Switched {
		t.Errorf("back: got %+v, want only a switch", r)
	}
	n.wantFile("current/smolvm", "one")
	// A third version removes what is neither current nor previous.
	n.pack(map[string]string{"smolvm": "three"})
	if r := n.install("3.0"); !slices.Equal(r.Removed, []string{"2.0"}) {
		t.Errorf("got %q removed, want 2.0", r.Removed)
	}
	n.wantVersions("1.0", "3.0")
}

func TestInstallOnlyTheNamedFiles(t *testing.T) {
	n := newNode(t)
	n.pack(map[string]string{"bottle-operator": "o", "bottle-guest": "g", "etc/passwd": "root"})
	o := n.options("v1")
	o.Name, o.Files = "bottle-operator", []string{"bottle-operator", "bottle-guest"}
	_, err := Install(t.Context(), o)
	n.must(err)
	entries, err := os.ReadDir(filepath.Join(n.root, "opt/bottle-operator/current"))
	n.must(err)
	if len(entries) != 3 { // with the record
		t.Errorf("got %v, want only the named files", entries)
	}
	for _, name := range []string{"../x", "etc/passwd", "", ".", "absent"} {
		o.Files = []string{name}
		if _, err := Install(t.Context(), o); err == nil {
			t.Errorf("%q: got no error, want one", name)
		}
	}
}

// The version of an image without one is its content.
func TestVersionFromTheDigest(t *testing.T) {
	n := newNode(t)
	n.pack(map[string]string{"smolvm": "one"})
	one := n.install("").Version
	n.pack(map[string]string{"smolvm": "two"})
	two := n.install("").Version
	if one == two || !strings.HasPrefix(one, "sha256-") || len(one) != len("sha256-")+16 {
		t.Errorf("got %q and %q, want two digests", one, two)
	}
}

// Other content under the same version does not replace what a machine may run.
func TestSameVersionWithOtherContent(t *testing.T) {
	n := newNode(t)
	n.pack(map[string]string{"smolvm": "one"})
	n.install("dev")
	n.pack(map[string]string{"smolvm": "two"})
	r := n.install("dev")
	if !strings.HasPrefix(r.Version, "dev-") || !r.Copied {
		t.Errorf("got %+v, want another folder", r)
	}
	n.wantFile("versions/dev/smolvm", "one")
	n.wantFile("current/smolvm", "two")
	if again := n.install("dev"); again.Copied || again.Version != r.Version {
		t.Errorf("again: got %+v, want %s kept", again, r.Version)
	}
}

// A version that is not as it was installed is replaced, whatever happened to it.
func TestDamagedVersionIsReplaced(t *testing.T) {
	for name, damage := range map[string]func(n *node){
		"content":     func(n *node) { n.must(os.WriteFile(n.path("current/smolvm"), []byte("0ne"), 0o755)) },
		"mode":        func(n *node) { n.must(os.Chmod(n.path("current/smolvm"), 0o777)) },
		"folder mode": func(n *node) { n.must(os.Chmod(n.path("current"), 0o777)) },
		"missing":     func(n *node) { n.must(os.Remove(n.path("current/lib/a"))) },
		"additional":  func(n *node) { n.must(os.WriteFile(n.path("current/lib/b"), nil, 0o644)) },
		"a link": func(n *node) {
			n.must(os.Remove(n.path("current/smolvm")))
			n.must(os.Symlink("/bin/true", n.path("current/smolvm")))
		},
		"a FIFO": func(n *node) {
			n.must(os.Remove(n.path("current/smolvm")))
			n.must(unix.Mkfifo(n.path("current/smolvm"), 0o755))
		},
		"no record": func(n *node) { n.must(os.Remove(n.path("current", recordName))) },
		"a wrong record": func(n *node) {
			n.must(os.WriteFile(n.path("current", recordName), bytes.Repeat([]byte("{"), 3*maxRecord), 0o644))
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, version := range []string{"1.0", ""} {
				n := newNode(t)
				n.pack(map[string]string{"smolvm": "one", "lib/a": "a"})
				n.install(version)
				damage(n)
				if r := n.install(version); !r.Copied {
					t.Errorf("got %+v, want it copied again", r)
				}
				n.wantFile("current/smolvm", "one")
				n.wantFile("current/lib/a", "a")
				// And a second time, when both names are taken.
				damage(n)
				if r := n.install(version); !r.Copied {
					t.Errorf("again: got %+v, want it copied again", r)
				}
				n.wantFile("current/smolvm", "one")
			}
		})
	}
}

// What a process keeps in a version that it uses does not make it look damaged: nobody
// guards the node while a version is copied.
func TestIgnoredFiles(t *testing.T) {
	n := newNode(t)
	n.pack(map[string]string{"smolvm": "one", "rootfs/a": "a"})
	o := n.options("1.0")
	o.Ignored = []string{"rootfs/.ready*"}
	_, err := Install(t.Context(), o)
	n.must(err)
	n.must(os.WriteFile(n.path("current/rootfs/.ready.1"), nil, 0o600))
	earlier := func(text []byte) []byte { return bytes.Replace(text, []byte(`"packed"`), []byte(`"unknown"`), 1) }
	for _, change := range []func([]byte) []byte{slices.Clone[[]byte], earlier} { // by comparing, and by digests
		record, err := os.ReadFile(n.path("current", recordName))
		n.must(err)
		n.must(os.WriteFile(n.path("current", recordName), change(record), 0o644))
		if r, err := Install(t.Context(), o); err != nil || r.Copied {
			t.Errorf("got %+v, %v, want the file ignored", r, err)
		}
	}
	n.must(os.WriteFile(n.path("current/rootfs/b"), nil, 0o644))
	if r, err := Install(t.Context(), o); err != nil || !r.Copied {
		t.Errorf("got %+v, %v, want another file noticed", r, err)
	}
}

// Crashes leave no more behind than the next installation removes.
func TestInterruptedInstallation(t *testing.T) {
	n := newNode(t)
	n.pack(map[string]string{"smolvm": "one"})
	n.must(os.MkdirAll(n.path("versions", newPrefix+"crashed", "lib"), 0o700))
	n.must(os.MkdirAll(n.path("versions/1.0"), 0o755)) // empty
	n.must(os.Symlink("versions/0.9", n.path(newPrefix+"current")))
	n.must(os.Symlink("versions/0.9", n.path("current"))) // dangling
	n.install("1.0")
	n.wantFile("current/smolvm", "one")
	n.wantVersions("1.0")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n.pack(map[string]string{"smolvm": "two"})
	if _, err := Install(ctx, n.options("2.0")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	n.wantFile("current/smolvm", "one")
}

func TestFailedCopyLeavesNothing(t *testing.T) {
	n := newNode(t)
	n.pack(map[string]string{"smolvm": "one", "template.ext4.zst": "this is not compressed"})
	if _, err := Install(t.Context(), n.options("1.0")); err == nil || !strings.Contains(err.Error(), "template.ext4.zst") {
		t.Errorf("got %v, want an error that names the file", err)
	}
	n.wantVersions()
	if _, err := os.Lstat(n.path("current")); !os.IsNotExist(err) {
		t.Errorf("got %v, want no current version", err)
	}
}

// What a symbolic link or another user could change is not written to.
func TestHostileParents(t *testing.T) {
	elsewhere := t.TempDir()
	for name, tt := range map[string]struct {
		prepare func(n *node)
		want    string
	}{
		"/opt/smolvm is a link": {func(n *node) {
			n.must(os.MkdirAll(filepath.Join(n.root, "opt"), 0o755))
			n.must(os.Symlink(elsewhere, n.path()))
		}, "smolvm is a symbolic link"},
		"versions is a link": {func(n *node) {
			n.must(os.MkdirAll(n.path(), 0o755))
			n.must(os.Symlink(elsewhere, n.path("versions")))
		}, "versions is a symbolic link"},
		"versions is a file": {func(n *node) {
			n.must(os.MkdirAll(n.path(), 0o755))
			n.must(os.WriteFile(n.path("versions"), nil, 0o644))
		}, "versions is not a folder"},
		"others may write": {func(n *node) {
			n.must(os.MkdirAll(n.path(), 0o755))
			n.must(os.Chmod(n.path(), 0o777))
		}, "chmod go-w"},
		"current is a folder": {func(n *node) { n.must(os.MkdirAll(n.path("current"), 0o755)) }, "current is not a symbolic link"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			tt.prepare(n)
			n.pack(map[string]string{"smolvm": "one"})
			_, err := Install(t.Context(), n.options("1.0"))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if entries, err := os.ReadDir(elsewhere); err != nil || len(entries) > 0 {
		t.Errorf("got %v, %v outside, want nothing", entries, err)
	}
}

func TestForeignOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		require.Unmet(t, "only root can give a folder away")
	}
	n := newNode(t)
	n.must(os.MkdirAll(n.path(), 0o755))
	n.must(os.Chown(n.path(), 65534, 65534))
	n.pack(map[string]string{"smolvm": "one"})
	if _, err := Install(t.Context(), n.options("1.0")); err == nil || !strings.Contains(err.Error(), "user 65534") {
		t.Errorf("got %v, want the owner refused", err)
	}
}

// Some systems have a link at /opt, such as Fedora CoreOS. It is followed as the node
// follows it, and not out of the node's root.
func TestOptIsALink(t *testing.T) {
	for _, target := range []string{"var/opt", "/var/opt", "../../../../var/opt"} {
		n := newNode(t)
		n.must(os.MkdirAll(filepath.Join(n.root, "var/opt"), 0o755))
		n.must(os.Symlink(target, filepath.Join(n.root, "opt")))
		n.pack(map[string]string{"smolvm": "one"})
		n.install("1.0")
		if got, err := os.ReadFile(filepath.Join(n.root, "var/opt/smolvm/current/smolvm")); string(got) != "one" {
			t.Errorf("%s: got %q, %v, want it in the node's /var/opt", target, got, err)
		}
	}
}

// A link that names no version is replaced, and never followed.
func TestCurrentPointsElsewhere(t *testing.T) {
	for _, target := range []string{"/etc", "../../etc", "versions/../../etc", "versions/.new-x", "versions/", "versions"} {
		n := newNode(t)
		n.must(os.MkdirAll(n.path(), 0o755))
		n.must(os.Symlink(target, n.path("current")))
		n.pack(map[string]string{"smolvm": "one"})
		n.install("1.0")
		n.wantFile("current/smolvm", "one")
		if _, err := os.Lstat(n.path("previous")); !os.IsNotExist(err) {
			t.Errorf("%s: got %v, want no previous version", target, err)
		}
	}
}

// Compressed files of the payload's root are unpacked with holes, others are not.
func TestPackedFiles(t *testing.T) {
	const size = 256<<20 + 12345
	n := newNode(t)
	n.pack(map[string]string{"smolvm": "one", "lib/kept.zst": "as it is"})
	disk, err := os.Create(filepath.Join(n.payload, "storage.ext4.zst"))
	n.must(err)
	w, err := zstd.NewWriter(disk, zstd.WithEncoderLevel(zstd.SpeedFastest))
	n.must(err)
	block := make([]byte, 1<<20)
	for at := 0; at < size; at += len(block) {
		chunk := block[:min(len(block), size-at)]
		chunk[0] = 0
		if at == 5<<20 {
			chunk[0] = 7
		}
		_, err := w.Write(chunk)
		n.must(err)
	}
	n.must(w.Close())
	n.must(disk.Close())
	n.must(os.WriteFile(filepath.Join(n.payload, "overlay.ext4.sparse"), encoded(t, strings.Repeat("\x00", 10<<20)+"end"), 0o644))
	n.install("1.0")
	if got, err := os.ReadFile(n.path("current/overlay.ext4")); err != nil || len(got) != 10<<20+3 || !strings.HasSuffix(string(got), "end") {
		t.Errorf("got %d bytes, %v, want the sparse file", len(got), err)
	}
	var st unix.Stat_t
	n.must(unix.Stat(n.path("current/storage.ext4"), &st))
	if st.Size != size || st.Blocks*512 > 1<<20 || st.Mode&0o777 != 0o644 {
		t.Errorf("got %d bytes in %d blocks, mode %o, want %d bytes, nearly all of them holes, mode 644", st.Size, st.Blocks, st.Mode, size)
	}
	f, err := os.Open(n.path("current/storage.ext4"))
	n.must(err)
	defer f.Close()
	got := make([]byte, 2)
	if _, err := f.ReadAt(got, 5<<20); err != nil || got[0] != 7 || got[1] != 0 {
		t.Errorf("got %v, %v, want the byte that was packed", got, err)
	}
	n.wantFile("current/lib/kept.zst", "as it is")
	if r := n.install("1.0"); r.Copied {
		t.Errorf("got %+v, want it recognised without unpacking", r)
	}
	if !n.matches("1.0") {
		t.Error("got false, want it recognised by comparing")
	}
	n.must(os.WriteFile(filepath.Join(n.payload, "overlay.ext4.sparse"), encoded(t, strings.Repeat("\x00", 10<<20)+"End"), 0o644))
	if n.matches("1.0") {
		t.Error("got true, want the change in the packed file noticed")
	}
	if r := n.install("1.0"); !r.Copied {
		t.Errorf("got %+v, want the other content installed", r)
	}
	if r := n.install("1.0"); r.Copied {
		t.Errorf("got %+v, want it recognised by its digest", r)
	}
	n.must(os.Truncate(n.path("current/storage.ext4"), size-1))
	if r := n.install("1.0"); !r.Copied {
		t.Errorf("got %+v, want the shorter file noticed", r)
	}
}

func encoded(t *testing.T, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := sparsefile.Encode(t.Context(), &b, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSpecialFilesAreRefused(t *testing.T) {
	n := newNode(t)
	n.pack(map[string]string{"smolvm": "one"})
	n.must(unix.Mkfifo(filepath.Join(n.payload, "fifo"), 0o644))
	if _, err := Install(t.Context(), n.options("1.0")); err == nil || !strings.Contains(err.Error(), "fifo") {
		t.Errorf("got %v, want the FIFO refused", err)
	}
}

func TestNames(t *testing.T) {
	n := newNode(t)
	n.pack(map[string]string{"smolvm": "one"})
	for _, version := range []string{"..", ".", "a/b", ".hidden", "a b", strings.Repeat("v", 101)} {
		if _, err := Install(t.Context(), n.options(version)); err == nil {
			t.Errorf("version %q: got no error, want one", version)
		}
	}
	for _, name := range []string{"", "..", "a/b", "A"} {
		o := n.options("1.0")
		o.Name = name
		if _, err := Install(t.Context(), o); err == nil {
			t.Errorf("name %q: got no error, want one", name)
		}
	}
}

// A version that a process runs stays until the process ends.
func TestUsedVersionIsKept(t *testing.T) {
	n := newNode(t)
	sleep, err := os.ReadFile("/bin/sleep")
	n.must(err)
	install := func(version, content string) Result {
		n.pack(map[string]string{"smolvm": string(sleep) + content})
		return n.install(version)
	}
	install("1.0", "")
	cmd := exec.Command(n.path("current/smolvm"), "600")
	n.must(cmd.Start())
	n.addProcess(cmd.Process.Pid)
	ended := false
	defer func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	install("2.0", "2")
	install("3.0", "3")
	n.wantVersions("1.0", "2.0", "3.0")
	n.must(cmd.Process.Kill())
	_ = cmd.Wait()
	ended = true
	if r := n.install("3.0"); !slices.Equal(r.Removed, []string{"1.0"}) {
		t.Errorf("got %q removed after the process ended, want 1.0", r.Removed)
	}
}

// A library that is mapped counts too.
func TestMappedVersionIsKept(t *testing.T) {
	n := newNode(t)
	n.pack(map[string]string{"smolvm": "one", "lib/libkrun.so": "library"})
	n.install("1.0")
	f, err := os.Open(n.path("current/lib/libkrun.so"))
	n.must(err)
	b, err := unix.Mmap(int(f.Fd()), 0, 7, unix.PROT_READ, unix.MAP_PRIVATE)
	n.must(err)
	f.Close()
	for _, version := range []string{"2.0", "3.0"} {
		n.pack(map[string]string{"smolvm": version})
		n.install(version)
	}
	n.wantVersions("1.0", "2.0", "3.0")
	n.must(unix.Munmap(b))
	n.install("3.0")
	n.wantVersions("2.0", "3.0")
}

// Without a look at the processes, nothing is removed, and the new version is current.
func TestProcessesUnknown(t *testing.T) {
	n := newNode(t)
	for _, version := range []string{"1.0", "2.0", "3.0"} {
		n.pack(map[string]string{"smolvm": version})
		o := n.options(version)
		o.Proc = filepath.Join(n.root, "proc")
		r, err := Install(t.Context(), o)
		n.must(err)
		if version == "3.0" && r.Kept == nil {
			t.Errorf("got %+v, want it to say why 1.0 was kept", r)
		}
	}
	n.wantVersions("1.0", "2.0", "3.0")
	n.wantFile("current/smolvm", "3.0")
	n.must(os.Mkdir(filepath.Join(n.root, "proc"), 0o755)) // nothing is mounted there
	o := n.options("3.0")
	o.Proc = ""
	if r, err := Install(t.Context(), o); err != nil || r.Kept == nil {
		t.Errorf("got %+v, %v, want the versions kept", r, err)
	}
}

// Two installations of the same name run one after the other.
// TestProcessThatHangs: a process that keeps whoever looks at it waiting does not keep the
// agent from being installed.
func TestProcessThatHangs(t *testing.T) {
	n := newNode(t)
	process := filepath.Join(n.proc, "4194304")
	maps := filepath.Join(process, "maps")
	n.must(os.Mkdir(process, 0o755))
	n.must(unix.Mkfifo(maps, 0o600)) // opening it waits for a writer
	t.Cleanup(func() {
		if f, err := os.OpenFile(maps, os.O_RDWR, 0); err == nil {
			f.Close()
		}
	})
	for _, version := range []string{"1.0", "2.0", "3.0", "4.0"} {
		n.pack(map[string]string{"smolvm": version})
		o := n.options(version)
		o.InspectTimeout = 50 * time.Millisecond
		r, err := Install(t.Context(), o)
		n.must(err)
		if version == "3.0" && r.Kept == nil {
			t.Errorf("got %+v, want it to say why 1.0 was kept", r)
		}
	}
	n.wantVersions("1.0", "2.0", "3.0", "4.0")
	n.wantFile("current/smolvm", "4.0")
}

func TestConcurrentInstallations(t *testing.T) {
	n := newNode(t)
	n.pack(map[string]string{"smolvm": "one", "lib/a": strings.Repeat("a", 1<<20)})
	errs := make(chan error)
	for range 4 {
		go func() {
			_, err := Install(t.Context(), n.options("1.0"))
			errs <- err
		}()
	}
	for range 4 {
		n.must(<-errs)
	}
	n.wantVersions("1.0")
	n.wantFile("current/smolvm", "one")
}
