// SPDX-License-Identifier: Apache-2.0

package smolvm_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
	"botbottle.dev/bottle-operator/internal/smolvm"
	"botbottle.dev/bottle-operator/test/cgroups"
	"botbottle.dev/bottle-operator/test/netns"
	"botbottle.dev/bottle-operator/test/require"
)

// root is the module's folder; tests run in the folder of their package.
const root = "../.."

// pathFromEnv returns the value of the environment variable name, or, if it is
// not set, the path below in the module.
func pathFromEnv(t *testing.T, name, below string) string {
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

// realReleases are the releases of the real command line that are tested:
// $SMOLVM_RELEASES, separated by spaces, or those that every run tests.
func realReleases() []string {
	if v := strings.Fields(os.Getenv("SMOLVM_RELEASES")); len(v) > 0 {
		return v
	}
	return []string{"1.32.2", "1.9.1"}
}

// TestRealWithoutVM runs the part of the contract that boots no machine (create,
// list, delete) against the real command line. It needs no KVM.
func TestRealWithoutVM(t *testing.T) {
	for _, version := range realReleases() {
		t.Run(version, func(t *testing.T) {
			dir := filepath.Join(pathFromEnv(t, "SMOLVM_VERSIONS_DIR", "bin/smolvm"), version)
			require.File(t, filepath.Join(dir, "smolvm"), "make smolvm")
			hostcontract.TestMachines(t, func(t *testing.T) hostcontract.MachinesFixture {
				f := fixture(t, dir)
				f.Artifact = func(t *testing.T) string { return realArtifact(t, f) }
				return f
			}, hostcontract.MachineOptions{WithoutVM: true})
		})
	}
}

// TestStandin runs the whole contract against the stand-in. TestStandinInPod does so with
// the newest release.
func TestStandin(t *testing.T) { testStandin(t, "0.8.0", "1.9.1") }

// TestLongStandin runs the whole contract with two more releases: an intermediate one, and the
// newest one without a Pod.
func TestLongStandin(t *testing.T) {
	require.Long(t)
	testStandin(t, "1.7.7", "1.32.2")
}

func testStandin(t *testing.T, versions ...string) {
	t.Helper()
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel() // it mostly waits
			dir, newest := standin(t, version), standin(t, "1.32.2")
			hostcontract.TestMachines(t, func(t *testing.T) hostcontract.MachinesFixture {
				f := fixture(t, dir)
				f.Artifact = func(t *testing.T) string { return newWorld(t, newest, nil).pack(t, f) }
				return f
			}, hostcontract.MachineOptions{})
		})
	}
}

// TestStandinInPod runs the whole contract with machines in the cgroup of a Pod.
func TestStandinInPod(t *testing.T) {
	t.Parallel()
	dir := standin(t, "1.32.2")
	hostcontract.TestMachines(t, func(t *testing.T) hostcontract.MachinesFixture {
		w := newWorld(t, dir, inPod(cgroups.Pod(t)))
		f := fixtureOf(t, w)
		f.Artifact = func(t *testing.T) string { return newWorld(t, dir, nil).pack(t, f) }
		f.Cgroup = func(t *testing.T, pid int) string {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			if err != nil {
				t.Fatal(err)
			}
			_, name, _ := strings.Cut(string(b), "/"+w.pod+"/")
			name, _, _ = strings.Cut(name, "\n")
			return name
		}
		return f
	}, hostcontract.MachineOptions{})
}

// inPod makes the machines run in the cgroup of a Pod.
func inPod(pod string) func(*smolvm.Options) {
	return func(o *smolvm.Options) {
		o.Parent = func(context.Context, string) (string, error) { return pod, nil }
	}
}

func standin(t *testing.T, version string) string {
	t.Helper()
	require.Root(t)
	dir := filepath.Join(pathFromEnv(t, "STANDIN_DIR", "bin/standin"), version)
	require.File(t, filepath.Join(dir, "smolvm"), "hack/standin-install "+version+" "+dir)
	return dir
}

// world is a separate smolvm home with a Driver for it.
type world struct {
	dir, home, smolvm string
	pod               string // the cgroup of the machines' Pod; "" for none
	driver            *smolvm.Driver
	groups            *cgroup.Groups
}

func newWorld(t *testing.T, installation string, change func(*smolvm.Options)) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "smolvm-")
	if err != nil {
		t.Fatal(err)
	}
	// Machines run as other users, who must be able to enter the folder. They
	// cannot enter one that t.TempDir makes.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: got %v, want nothing mounted or in use there", dir, err)
		}
	})
	w := &world{dir: dir, home: filepath.Join(dir, "home"), smolvm: filepath.Join(installation, "smolvm")}
	o := smolvm.Options{Dir: installation, Home: w.home, Cgroups: cgroups.Parent(t)}
	if change != nil {
		change(&o)
	}
	if o.Parent != nil {
		w.pod, _ = o.Parent(t.Context(), "")
	}
	w.driver = smolvm.New(o)
	if w.groups, err = cgroup.Open(o.Cgroups); err != nil {
		t.Fatal(err)
	}
	return w
}

func fixture(t *testing.T, installation string) hostcontract.MachinesFixture {
	t.Helper()
	return fixtureOf(t, newWorld(t, installation, nil))
}

func fixtureOf(t *testing.T, w *world) hostcontract.MachinesFixture {
	t.Helper()
	image := pathFromEnv(t, "GUEST_TAR", "bin/images/guest.tar")
	require.File(t, image, "make image")
	return hostcontract.MachinesFixture{
		Machines: w.driver, Dir: w.dir, Image: image,
		StoredEnv: w.storedEnv, PlacesContaining: w.where, Leftovers: w.left,
		AddForeign: func(t *testing.T, name string) { w.call(t, "machine", "create", "--name="+name) },
		Kill: func(t *testing.T, m host.Machine) {
			if err := syscall.Kill(m.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		},
		Deny: w.deny, NetNS: newNetNS,
		OwnNetNS: func(t *testing.T) (string, host.NetNS) { return "", netnsOf(t, "/proc/self/ns/net") },
		Cgroup: func(t *testing.T, pid int) string {
			id, err := w.groups.Of(pid)
			if err != nil {
				t.Fatal(err)
			}
			return id
		},
		Program: "/bin/busybox",
	}
}

// deny writes the log lines that a VMM writes when it denies connections.
func (w *world) deny(t *testing.T, name string, denials []host.Denial) {
	t.Helper()
	dir := smolvm.DataDir(w.driver, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "egress-denials.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, d := range denials {
		_, err := fmt.Fprintf(f, "[%s WARN  krun_egress] egress policy denied connect to %s\n", d.Time.Format(time.RFC3339Nano), d.Dest)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func newNetNS(t *testing.T) (string, host.NetNS) {
	t.Helper()
	path := netns.New(t)
	return path, netnsOf(t, path)
}

func netnsOf(t *testing.T, path string) host.NetNS {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return host.NetNS{Dev: st.Dev, Inode: st.Ino}
}

// call runs smolvm directly, without the Driver.
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

// storedEnv reads a machine's environment from smolvm's database.
func (w *world) storedEnv(t *testing.T, name string) []string {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+w.database()+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var record []byte
	if err := db.QueryRowContext(t.Context(), "SELECT data FROM vms WHERE name = ?", name).Scan(&record); err != nil {
		t.Fatalf("read smolvm's database: %v", err)
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

// where returns the files below smolvm's home and the processes whose content or
// command line contains text.
func (w *world) where(t *testing.T, text string) []string {
	t.Helper()
	var places []string
	err := filepath.WalkDir(w.home, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if info, err := e.Info(); err != nil || info.Size() > 64<<20 {
			return err // skip disks: they are empty before the first start
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

// left returns everything that is left of a machine on the node.
func (w *world) left(t *testing.T, name string) []string {
	t.Helper()
	var left []string
	dir := smolvm.DataDir(w.driver, name)
	if _, err := os.Stat(dir); err == nil {
		left = append(left, "folder "+dir)
	}
	if ids, err := w.groups.List(); err != nil || slices.Contains(ids, name) {
		left = append(left, fmt.Sprintf("cgroup (%v)", err))
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
