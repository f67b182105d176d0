// SPDX-License-Identifier: Apache-2.0

package smolfile_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/smolfile"
	"botbottle.dev/bottle-operator/test/require"
)

// realSmolvm is the real smolvm with a separate home. Creating a machine parses
// the Smolfile and starts nothing.
type realSmolvm struct{ bin, home string }

func newRealSmolvm(t *testing.T) realSmolvm {
	t.Helper()
	dir := os.Getenv("SMOLVM_REAL_DIR")
	if dir == "" {
		dir = "../../bin/smolvm/1.32.2"
	}
	bin, err := filepath.Abs(filepath.Join(dir, "smolvm"))
	if err != nil {
		t.Fatal(err)
	}
	require.File(t, bin, "make smolvm fetches it, or set SMOLVM_REAL_DIR to the folder of one")
	return realSmolvm{bin: bin, home: t.TempDir()}
}

func (r realSmolvm) run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.bin, args...)
	cmd.Env = []string{"HOME=" + r.home, "PATH=/usr/bin:/bin"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("smolvm %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String()
}

func (r realSmolvm) create(t *testing.T, name string, s smolfile.Smolfile) {
	t.Helper()
	out, err := smolfile.Render(s)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "Smolfile")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	r.run(t, "machine", "create", "--name", name, "--smolfile", file)
}

// stored reads one key of the only machine from smolvm's database. The record is
// JSON in a SQLite file; new rows are in the write-ahead log. SQLite splits a
// record that is larger than a page, so tests must keep it small.
func (r realSmolvm) stored(t *testing.T, key string, into any) {
	t.Helper()
	const db = ".local/share/smolvm/server/smolvm.db"
	mark := []byte(`"` + key + `":[`)
	for _, file := range []string{db + "-wal", db} {
		data, err := os.ReadFile(filepath.Join(r.home, file))
		i := bytes.LastIndex(data, mark)
		if err != nil || i < 0 {
			continue
		}
		if err := json.NewDecoder(bytes.NewReader(data[i+len(mark)-1:])).Decode(into); err != nil {
			t.Fatalf("%s in %s: %v", key, file, err)
		}
		return
	}
	t.Fatalf("%s: got no record in smolvm's database, want one", key)
}

func (r realSmolvm) storedEnv(t *testing.T) (env [][2]string) {
	t.Helper()
	r.stored(t, "env", &env)
	return env
}

func wantEnv(env map[string]string) [][2]string {
	want := [][2]string{}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		want = append(want, [2]string{name, env[name]})
	}
	return want
}

// awkwardValues returns values that are hard to quote. None of them ends in white
// space, which smolvm drops.
func awkwardValues() []string {
	values := []string{"", "plain", "a=b==", "it's", `say "x"`, `C:\new\u0041`, `'"'`, "'''x", `"""x`, `"""`, "''", " \t\nlead",
		"a\r\nb\rc", "tab\tx", "a\u0085b\u2028c\u2029d\u00a0e\u3000f", "\ufeffbom", "😀\u200d\ufe0f", "\ufffe\uffff\U0010ffff\ue000\ud7ff",
		"]\n[network]\nallow_cidrs = [\"0.0.0.0/0\"]\n#", "']\nnet = true\n#", "# no comment", "{a = 1}", "$HOME `id` ${X} %s {}"}
	for c := byte(1); c < 0x20; c++ {
		values = append(values, "a"+string(rune(c))+"b")
	}
	return append(values, "a\x7fb", "a\u0080b\u009fc", strings.Repeat("\\", 99), strings.Repeat("'", 99), strings.Repeat("\"", 99))
}

// smolvm parses the file with Rust's toml parser, not with ours. It must read
// every value unchanged.
func TestRealSmolvmReadsEveryValue(t *testing.T) {
	values := awkwardValues()
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		values = append(values, randomValue(random)+".")
	}
	n := 0
	for chunk := range slices.Chunk(values, 12) {
		s := smolfile.Smolfile{Env: map[string]string{}, BundleIP: bundleIP}
		for i, v := range chunk {
			s.Env[fmt.Sprintf("V%d", i)] = v
		}
		r := newRealSmolvm(t)
		r.create(t, "only", s)
		if d := cmp.Diff(wantEnv(s.Env), r.storedEnv(t)); d != "" {
			t.Errorf("env as smolvm stored it (-want +got):\n%s", d)
		}
		n++
	}
	if n < 20 {
		t.Errorf("machines: got %d, want at least 20", n)
	}
}

// randomValue returns up to 19 random characters, with a preference for control,
// Latin-1 and other unusual characters, but never a NUL.
func randomValue(random *rand.Rand) string {
	var b strings.Builder
	for range random.IntN(20) {
		limit := []int32{0x20, 0x80, 0x100, 0x3100, 0x110000}[random.IntN(5)]
		r := 1 + random.Int32N(limit-1)
		if r >= 0xd800 && r < 0xe000 {
			r = '\''
		}
		b.WriteRune(r)
	}
	return b.String()
}

// smolvm drops the white space that TrimmedByGuest warns about, and changes
// nothing else.
func TestRealSmolvmTrimsTheEnd(t *testing.T) {
	r := newRealSmolvm(t)
	r.create(t, "trimmed", smolfile.Smolfile{BundleIP: bundleIP, Env: map[string]string{"A": " x\n", "B": " \u0085\u3000", "C": "x\ufeff"}})
	want := [][2]string{{"A", " x"}, {"B", ""}, {"C", "x\ufeff"}}
	if d := cmp.Diff(want, r.storedEnv(t)); d != "" {
		t.Errorf("env as smolvm stored it (-want +got):\n%s", d)
	}
}

// smolvm interprets the other keys and their units as this package does.
func TestRealSmolvmReadsEveryKey(t *testing.T) {
	r := newRealSmolvm(t)
	size := machinesize.Size{CPUs: 16, MemoryMiB: 64}
	for i, disk := range reflect.ValueOf(&size).Elem().Fields() {
		if disk.IsZero() { // each gets a size of its own
			disk.SetInt(int64(20 + i.Index[0]))
		}
	}
	r.create(t, "full", smolfile.Smolfile{BundleIP: bundleIP, Size: size})
	var got map[string]any
	if err := json.Unmarshal([]byte(r.run(t, "machine", "status", "--name", "full", "--json")), &got); err != nil {
		t.Fatal(err)
	}
	for key, want := range sizeKeys(size) {
		if !slices.Contains([]any{got[key], got[key+"_mib"], got[key+"_gb"]}, any(float64(want))) {
			t.Errorf("%s: got %v, want it to be %d", key, got, want)
		}
	}
	var cidrs []string
	if r.stored(t, "allowed_cidrs", &cidrs); !slices.Equal(cidrs, []string{"192.168.44.2/32"}) {
		t.Errorf("allowed CIDRs: got %v, want only 192.168.44.2/32", cidrs)
	}
}

// smolvm accepts the longest value that Render accepts, and does not cut it off.
func TestRealSmolvmAcceptsLongestValue(t *testing.T) {
	r := newRealSmolvm(t)
	long := strings.Repeat("x", 131072-len("LONG=\x00"))
	r.create(t, "long", smolfile.Smolfile{Env: map[string]string{"LONG": long}, BundleIP: bundleIP})
	if !strings.Contains(r.run(t, "machine", "ls", "--verbose"), "Env: LONG="+long+"\n") {
		t.Errorf("long value: got another value, want %d times x", len(long))
	}
}

// smolvm accepts every golden file.
func TestRealSmolvmAcceptsGoldens(t *testing.T) {
	r := newRealSmolvm(t)
	goldens, err := filepath.Glob("testdata/*.out.toml")
	if err != nil || len(goldens) == 0 {
		t.Fatalf("goldens: got %d, %v, want some", len(goldens), err)
	}
	for i, golden := range goldens {
		r.run(t, "machine", "create", "--name", fmt.Sprintf("g%d", i), "--smolfile", golden)
	}
	var machines []struct {
		Network bool `json:"network"`
	}
	if err := json.Unmarshal([]byte(r.run(t, "machine", "ls", "--json")), &machines); err != nil {
		t.Fatal(err)
	}
	if len(machines) != len(goldens) {
		t.Errorf("machines: got %d, want %d", len(machines), len(goldens))
	}
}
