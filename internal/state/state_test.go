// SPDX-License-Identifier: Apache-2.0

package state_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

const uid = "1a2b3c4d-0000-4000-8000-000000000000"

var owner = host.Owner{UID: uid, Namespace: "ns", Name: "demo", Slug: "demo", Cluster: "c", Node: "n"}

func open(t *testing.T, root string) *state.Dir {
	t.Helper()
	d, err := state.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func folder(t *testing.T) state.Folder {
	t.Helper()
	f, err := open(t, t.TempDir()).Folder(uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Ensure(owner); err != nil {
		t.Fatal(err)
	}
	return f
}

func wantMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != want {
		t.Errorf("mode of %s: got %v, want %v", path, info.Mode(), want)
	}
}

func TestModes(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	root := filepath.Join(t.TempDir(), "state")
	d := open(t, root)
	f, err := d.Folder(uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Ensure(owner); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteSmolfile([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteRules([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteSecrets(map[string]string{"T": "v"}); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteRecord(&state.Record{}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]fs.FileMode{
		root:                                    fs.ModeDir | 0o711,
		filepath.Join(root, "bottles"):          fs.ModeDir | 0o700,
		filepath.Join(root, "images"):           fs.ModeDir | 0o711,
		d.SmolvmHome():                          fs.ModeDir | 0o711,
		f.Path():                                fs.ModeDir | 0o700,
		f.BundleDir():                           fs.ModeDir | 0o755,
		filepath.Join(f.Path(), "secrets"):      fs.ModeDir | 0o700,
		f.SmolfilePath():                        0o600,
		f.SecretPath("T"):                       0o600,
		f.BundleDir() + "/egress.json":          0o644,
		filepath.Join(f.Path(), "owner.json"):   0o600,
		filepath.Join(f.Path(), "machine.json"): 0o600,
	} {
		wantMode(t, path, want)
	}
}

func TestFilesAreReplacedAtomically(t *testing.T) {
	f := folder(t)
	for i, step := range []struct {
		text string
		want bool
	}{{"one", true}, {"one", false}, {"two", true}} {
		got, err := f.WriteSmolfile([]byte(step.text))
		if err != nil || got != step.want {
			t.Errorf("write %d: got %v %v, want %v", i, got, err, step.want)
		}
	}
	before, err := os.Open(f.SmolfilePath())
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if _, err := f.WriteSmolfile([]byte("three")); err != nil {
		t.Fatal(err)
	}
	old := make([]byte, 10)
	if n, _ := before.Read(old); string(old[:n]) != "two" {
		t.Errorf("file that was opened before: got %q, want the old content", old[:n])
	}
	// A write restores the mode, even if the content is the same.
	if err := os.Chmod(f.SmolfilePath(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteSmolfile([]byte("three")); err != nil {
		t.Fatal(err)
	}
	wantMode(t, f.SmolfilePath(), 0o600)
	entries, err := os.ReadDir(f.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".tmp") {
			t.Errorf("temporary file: got %s, want none", e.Name())
		}
	}
}

func TestSecrets(t *testing.T) {
	f := folder(t)
	long := strings.Repeat("N", 256)
	steps := []struct {
		values map[string]string
		want   []string
	}{
		{map[string]string{"A": "1", "B": "2", long: "3"}, []string{"A", "B", long}},
		{map[string]string{"A": "1", "B": "two", long: "3"}, []string{"B"}},
		{map[string]string{"A": "1"}, nil},
		{nil, nil},
	}
	for i, step := range steps {
		got, err := f.WriteSecrets(step.values)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(step.want, got); d != "" {
			t.Errorf("step %d: changed (-want +got):\n%s", i, d)
		}
		entries, err := os.ReadDir(filepath.Join(f.Path(), "secrets"))
		if err != nil || len(entries) != len(step.values) {
			t.Errorf("step %d: got %v %v, want %d files", i, entries, err, len(step.values))
		}
		for name, value := range step.values {
			if data, err := os.ReadFile(f.SecretPath(name)); err != nil || string(data) != value {
				t.Errorf("step %d: %s: got %q %v, want %q", i, name, data, err, value)
			}
		}
	}
	for _, name := range []string{"../x", "a/b", "", ".."} {
		if _, err := f.WriteSecrets(map[string]string{name: "v"}); err == nil {
			t.Errorf("name %q: got nil, want an error", name)
		}
	}
}

func TestRecord(t *testing.T) {
	f := folder(t)
	if r, err := f.Record(); r != nil || err != nil {
		t.Errorf("no record: got %v %v, want nil, nil", r, err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	want := &state.Record{Salt: "s", Env: state.Hashes("s", map[string]string{"A": "value"}), Command: []string{"sh"},
		Run: &state.Run{PID: 7, StartTime: at}, LastLoss: &state.Loss{Time: at, Cause: "x"}, BootFailures: 2, LastBootFailure: at}
	if err := f.WriteRecord(want); err != nil {
		t.Fatal(err)
	}
	got, err := f.Record()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("record (-want +got):\n%s", d)
	}
	data, err := os.ReadFile(filepath.Join(f.Path(), "machine.json"))
	if err != nil || strings.Contains(string(data), "value") {
		t.Errorf("file: got %s %v, want it to contain no value", data, err)
	}
	if err := os.WriteFile(filepath.Join(f.Path(), "machine.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := f.Record(); err == nil {
		t.Errorf("invalid record: got %v, want an error", r)
	}
}

func TestHashes(t *testing.T) {
	values := map[string]string{"A": "x", "B": "x", "C": "y"}
	a, b := state.Hashes("one", values), state.Hashes("two", values)
	if a["A"] != a["B"] || a["A"] == a["C"] || a["A"] == b["A"] {
		t.Errorf("got %v and %v, want equal hashes only for the same value and salt", a, b)
	}
	if one, two := state.NewSalt(), state.NewSalt(); one == two {
		t.Errorf("salts: got %s twice, want different ones", one)
	}
}

func TestFolderNames(t *testing.T) {
	d := open(t, t.TempDir())
	for _, bad := range []string{"", ".", "..", "../x", "a/b", "a b", strings.Repeat("a", 65)} {
		if f, err := d.Folder(bad); err == nil {
			t.Errorf("uid %q: got %s, want an error", bad, f.Path())
		}
	}
	if _, err := state.Open("relative"); err == nil {
		t.Errorf("relative state directory: got nil, want an error")
	}
}

func TestOwners(t *testing.T) {
	root := t.TempDir()
	d := open(t, root)
	f, err := d.Folder(uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Ensure(owner); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "bottles", "0-without-owner"), 0o700); err != nil {
		t.Fatal(err)
	}
	got, err := d.Owners()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]host.Owner{{UID: "0-without-owner"}, owner}, got); d != "" {
		t.Errorf("owners (-want +got):\n%s", d)
	}
	if err := f.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(); err != nil {
		t.Errorf("second removal: got %v, want nil", err)
	}
	if _, err := f.Owner(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("owner of a removed folder: got %v, want %v", err, fs.ErrNotExist)
	}
}

func TestClaimCluster(t *testing.T) {
	d := open(t, t.TempDir())
	for _, step := range []struct {
		id   string
		want error
	}{{"one", nil}, {"one", nil}, {"two", state.ErrOtherCluster}, {"one", nil}} {
		if err := d.ClaimCluster(step.id); !errors.Is(err, step.want) {
			t.Errorf("claim %s: got %v, want %v", step.id, err, step.want)
		}
	}
	if err := d.ClaimCluster(""); err == nil {
		t.Errorf("no identity: got nil, want an error")
	}
}

func TestLock(t *testing.T) {
	root := t.TempDir()
	if err := open(t, root).Lock(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, root).Lock(); !errors.Is(err, state.ErrInUse) {
		t.Errorf("second agent: got %v, want %v", err, state.ErrInUse)
	}
}
