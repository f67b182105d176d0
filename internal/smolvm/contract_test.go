// SPDX-License-Identifier: Apache-2.0

package smolvm_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
	"botbottle.dev/bottle-operator/internal/smolvm"
	"botbottle.dev/bottle-operator/test/require"
)

// root is the module's: tests run in their package's folder.
const root = "../.."

// place is $name, or a folder below the module.
func place(t *testing.T, name, below string) string {
	t.Helper()
	if v := os.Getenv(name); v != "" {
		return v
	}
	abs, err := filepath.Abs(filepath.Join(root, below))
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// TestRealWithoutVM: creating, listing and deleting boot nothing, so that the
// real command line is held to its half of the contract on every machine.
func TestRealWithoutVM(t *testing.T) {
	for _, version := range []string{"1.32.2", "1.9.1"} {
		t.Run(version, func(t *testing.T) {
			dir := filepath.Join(place(t, "SMOLVM_VERSIONS_DIR", "bin/smolvm"), version)
			require.File(t, filepath.Join(dir, "smolvm"), "make smolvm")
			hostcontract.TestMachines(t, func(t *testing.T) hostcontract.MachinesFixture {
				return fixture(t, dir)
			}, hostcontract.MachineOptions{WithoutVM: true})
		})
	}
}

// TestStandin is the whole contract against the stand-in.
func TestStandin(t *testing.T) {
	for _, version := range []string{"0.8.0", "1.9.1", "1.32.2"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel() // mostly waits
			dir := standin(t, version)
			hostcontract.TestMachines(t, func(t *testing.T) hostcontract.MachinesFixture {
				return fixture(t, dir)
			}, hostcontract.MachineOptions{})
		})
	}
}

func standin(t *testing.T, version string) string {
	t.Helper()
	require.Root(t)
	dir := filepath.Join(place(t, "STANDIN_DIR", "bin/standin"), version)
	require.File(t, filepath.Join(dir, "smolvm"), "hack/standin-install "+version+" "+dir)
	return dir
}

// world is a smolvm home of its own.
type world struct {
	dir, home, smolvm string
	driver            *smolvm.Driver
}

func newWorld(t *testing.T, installation string, change func(*smolvm.Options)) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "smolvm-")
	if err != nil {
		t.Fatal(err)
	}
	// Not t.TempDir: machines run as users that must pass here.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: got %v, want nothing mounted or in use there", dir, err)
		}
	})
	w := &world{dir: dir, home: filepath.Join(dir, "home"), smolvm: filepath.Join(installation, "smolvm")}
	o := smolvm.Options{Dir: installation, Home: w.home, ListTTL: 200 * time.Millisecond}
	if change != nil {
		change(&o)
	}
	w.driver = smolvm.New(o)
	return w
}

func fixture(t *testing.T, installation string) hostcontract.MachinesFixture {
	t.Helper()
	return fixtureOf(t, newWorld(t, installation, nil))
}

func fixtureOf(t *testing.T, w *world) hostcontract.MachinesFixture {
	t.Helper()
	image := place(t, "GUEST_TAR", "bin/images/guest.tar")
	require.File(t, image, "make image")
	return hostcontract.MachinesFixture{
		Machines: w.driver, Dir: w.dir, Image: image,
		StoredEnv: w.storedEnv, Where: w.where, Left: w.left,
		AddForeign: func(t *testing.T, name string) { w.call(t, "machine", "create", "--name="+name) },
		Kill: func(t *testing.T, m host.Machine) {
			if err := syscall.Kill(m.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// call runs smolvm as somebody else would.
func (w *world) call(t *testing.T, args ...string) string {
	t.Helper()
	if v, _ := w.driver.Version(t.Context()); v.Version == "0.8.0" {
		for i, a := range args {
			args[i] = strings.TrimPrefix(a, "--name=")
		}
	}
	cmd := exec.CommandContext(t.Context(), w.smolvm, args...)
	cmd.Env = []string{
		"HOME=" + w.home, "PATH=/usr/bin:/bin", "SMOLVM_IMAGE_SEEDS=0",
		"SMOLVM_LIB_DIR=" + filepath.Dir(w.smolvm) + "/lib", "SMOLVM_AGENT_ROOTFS=" + filepath.Dir(w.smolvm) + "/agent-rootfs",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("smolvm %q: %v: %s", args, err, out)
	}
	return string(out)
}

func (w *world) database() string {
	return filepath.Join(w.home, ".local/share/smolvm/server/smolvm.db")
}

// storedEnv reads smolvm's database, the stand-in's as JSON, else as SQLite.
func (w *world) storedEnv(t *testing.T, name string) []string {
	t.Helper()
	b, err := os.ReadFile(w.database())
	if err != nil {
		t.Fatal(err)
	}
	record := standinRecord(b, name)
	if record == nil {
		const query = `import sqlite3, sys
db = sqlite3.connect("file:" + sys.argv[1] + "?mode=ro", uri=True)
(data,) = db.execute("SELECT data FROM vms WHERE name = ?", (sys.argv[2],)).fetchone()
sys.stdout.buffer.write(data if isinstance(data, bytes) else data.encode())`
		python, err := exec.LookPath("python3")
		if err != nil || exec.CommandContext(t.Context(), python, "-c", "import sqlite3").Run() != nil {
			require.Unmet(t, "needs python3 with sqlite3 to read smolvm's database")
		}
		if record, err = exec.CommandContext(t.Context(), python, "-c", query, w.database(), name).Output(); err != nil {
			t.Fatalf("read smolvm's database: %v", err)
		}
	}
	var r struct {
		Env [][2]string `json:"env"`
	}
	if err := json.Unmarshal(record, &r); err != nil {
		t.Fatal(err)
	}
	var env []string
	for _, kv := range r.Env {
		env = append(env, kv[0]+"="+kv[1])
	}
	return env
}

// standinRecord finds a machine's record in the stand-in's database; nil when
// this is not one.
func standinRecord(db []byte, name string) json.RawMessage {
	var file any
	if json.Unmarshal(db, &file) != nil {
		return nil
	}
	var find func(v any) any
	find = func(v any) any {
		switch x := v.(type) {
		case map[string]any:
			if x["name"] == name && x["env"] != nil {
				return x
			}
			for _, y := range x {
				if r := find(y); r != nil {
					return r
				}
			}
		case []any:
			for _, y := range x {
				if r := find(y); r != nil {
					return r
				}
			}
		}
		return nil
	}
	b, _ := json.Marshal(find(file))
	return b
}

// where searches everything below smolvm's home and every command line.
func (w *world) where(t *testing.T, text string) []string {
	t.Helper()
	var places []string
	err := filepath.WalkDir(w.home, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if info, err := e.Info(); err != nil || info.Size() > 64<<20 {
			return err // disks: empty before the first start
		}
		b, err := os.ReadFile(path)
		if err == nil && bytes.Contains(b, []byte(text)) {
			places = append(places, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for pid, cmdline := range cmdlines(t) {
		if pid != os.Getpid() && strings.Contains(cmdline, text) {
			places = append(places, "process "+strconv.Itoa(pid))
		}
	}
	return places
}

func (w *world) left(t *testing.T, name string) []string {
	t.Helper()
	var left []string
	dir := smolvm.DataDir(w.driver, name)
	if _, err := os.Stat(dir); err == nil {
		left = append(left, "folder "+dir)
	}
	for pid, cmdline := range cmdlines(t) {
		if strings.Contains(cmdline, dir) {
			left = append(left, "process "+strconv.Itoa(pid)+" "+cmdline)
		}
	}
	return left
}

func cmdlines(t *testing.T) map[int]string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]string{}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			b, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
			all[pid] = strings.ReplaceAll(string(b), "\x00", " ")
		}
	}
	return all
}
