// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/test/require"
)

// optionsVariable makes the test program the one in the container.
const optionsVariable = "NODEAGENT_TEST_OPTIONS"

// report is what the agent finds after it was started.
type report struct {
	Args, Env         []string
	Executable, Dir   string
	Namespaces        map[string]string
	OOM               string
	OpenFiles         uint64
	Token, Cgroup     string
	TokenErr, HostErr string
}

func TestMain(m *testing.M) {
	text := os.Getenv(optionsVariable)
	switch {
	case text == "":
		os.Exit(m.Run())
	case len(os.Args) > 1 && os.Args[1] == "agent":
		_ = json.NewEncoder(os.Stdout).Encode(found())
	default:
		var o Options
		err := json.Unmarshal([]byte(text), &o)
		if err == nil {
			err = o.Run(os.Args[1:])
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func found() (r report) {
	r.Args, r.Env, r.Namespaces = os.Args, os.Environ(), map[string]string{}
	r.Executable, _ = os.Readlink("/proc/self/exe")
	r.Dir, _ = os.Getwd()
	for _, ns := range []string{"mnt", "cgroup", "ipc", "uts", "net", "pid"} {
		r.Namespaces[ns], _ = os.Readlink("/proc/self/ns/" + ns)
	}
	oom, _ := os.ReadFile("/proc/self/oom_score_adj")
	r.OOM = strings.TrimSpace(string(oom))
	var limit syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	r.OpenFiles = limit.Max
	token, err := os.ReadFile(filepath.Join(os.Args[len(os.Args)-1], "token"))
	r.Token, r.TokenErr = string(token), fmt.Sprint(err)
	cgroup, _ := os.ReadFile("/proc/self/cgroup")
	r.Cgroup = string(cgroup)
	return r
}

// world has a node, whose init process has namespaces of its own, and a container.
type world struct {
	*testing.T
	Options
	init int
}

func newWorld(t *testing.T) *world {
	if os.Geteuid() != 0 {
		require.Unmet(t, "only root can make namespaces")
	}
	dir := t.TempDir()
	w := &world{T: t, Options: Options{
		HostRoot: filepath.Join(dir, "host"), KubeletDir: filepath.Join(dir, "kubelet"),
		Programs: filepath.Join(dir, "opt/current"), PodUID: "0a1b2c3d-0000-4000-8000-000000000000",
	}}
	w.TokenDir = filepath.Join(w.KubeletDir, "pods", w.PodUID, "volumes/kubernetes.io~projected/token")
	for _, d := range []string{filepath.Join(w.HostRoot, "proc"), w.TokenDir, filepath.Join(dir, "opt")} {
		w.must(os.MkdirAll(d, 0o755))
	}
	w.must(os.WriteFile(filepath.Join(w.TokenDir, "token"), []byte("secret"), 0o600))
	// Only the node's mounts have the programs.
	w.boot(`mount -t tmpfs none "$1" && mkdir -p "$1/versions/1" && cp "$2" "$1/versions/1/bottle-operator" && ln -s versions/1 "$1/current"`, filepath.Join(dir, "opt"))
	return w
}

// boot starts the node's init process. script gets a folder and the test program.
func (w *world) boot(script, folder string) {
	w.Helper()
	self, err := os.Executable()
	w.must(err)
	cmd := exec.Command("/bin/sh", "-c", "mount --make-rprivate / && "+script+" && echo ready && exec sleep 600", "init", folder, self)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	w.must(err)
	var problem bytes.Buffer
	cmd.Stderr = &problem
	w.must(cmd.Start())
	w.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line := make([]byte, 6)
	if n, _ := out.Read(line); string(line[:n]) != "ready\n" {
		_ = cmd.Wait()
		w.Fatalf("the node's init process did not start: %s", problem.String())
	}
	w.init = cmd.Process.Pid
	w.must(os.Symlink(filepath.Join("/proc", strconv.Itoa(w.init)), filepath.Join(w.HostRoot, "proc/1")))
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// start runs the program in a container with these namespaces of its own.
func (w *world) start(namespaces uintptr, args ...string) (stdout []byte, stderr string) {
	w.Helper()
	text, err := json.Marshal(w.Options)
	w.must(err)
	self, err := os.Executable()
	w.must(err)
	// As in a Pod of the QoS class BestEffort.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `echo 1000 >/proc/self/oom_score_adj && ulimit -n 1000 && exec "$0" "$@"`, self}, args...)...)
	cmd.Env = []string{optionsVariable + "=" + string(text), "PATH=/container", "SSL_CERT_FILE=/container", "KUBERNETES_SERVICE_HOST=10.96.0.1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: namespaces}
	var out, problem bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problem
	_ = cmd.Run()
	return out.Bytes(), problem.String()
}

const container = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWCGROUP

func TestRunEntersTheNode(t *testing.T) {
	w := newWorld(t)
	out, problem := w.start(container, "--node-name=n", "--smolvm-dir=/opt/smolvm/current")
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("got %q, %v, and on stderr %q, want the agent's report", out, err, problem)
	}
	want := []string{"bottle-operator", "agent", "--node-name=n", "--smolvm-dir=/opt/smolvm/current", "--service-account-dir", w.TokenDir}
	if !slices.Equal(r.Args, want) {
		t.Errorf("got arguments %q, want %q", r.Args, want)
	}
	for ns, got := range r.Namespaces {
		if want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", w.init, ns)); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want the node's %s", ns, got, err, want)
		}
	}
	if want := filepath.Join(filepath.Dir(w.Programs), "versions/1/bottle-operator"); r.Executable != want || r.Dir != "/" {
		t.Errorf("got %s in %s, want %s in /", r.Executable, r.Dir, want)
	}
	if r.Token != "secret" {
		t.Errorf("got token %q, %s, want the Pod's", r.Token, r.TokenErr)
	}
	// Here, root may lack CAP_SYS_RESOURCE, which a privileged container has.
	oom, files := oomScoreAdjust, uint64(openFiles)
	if !mayRaiseLimits(t) {
		oom, files = "0", 1000
	}
	if r.OOM != oom || r.OpenFiles != files {
		t.Errorf("got oom_score_adj %s and a limit of %d open files, want %s and %d", r.OOM, r.OpenFiles, oom, files)
	}
	for _, v := range r.Env {
		if strings.Contains(v, "=/container") {
			t.Errorf("got %s in the environment, want the node's", v)
		}
	}
	if !slices.Contains(r.Env, path) || !slices.Contains(r.Env, "KUBERNETES_SERVICE_HOST=10.96.0.1") {
		t.Errorf("got environment %q, want the node's PATH and the API server's address", r.Env)
	}
	// The hierarchy is seen from its root, and the process has not left its cgroup.
	own, err := os.ReadFile("/proc/self/cgroup")
	w.must(err)
	if r.Cgroup != string(own) {
		t.Errorf("got cgroup %q, want %q", r.Cgroup, own)
	}
}

func mayRaiseLimits(t *testing.T) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

func TestRunRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		namespaces uintptr
		prepare    func(w *world)
		want       string
	}{
		"a Pod with a network of its own": {container | unix.CLONE_NEWNET, func(*world) {}, "hostNetwork: true"},
		"no init process": {container, func(w *world) {
			w.must(os.Remove(filepath.Join(w.HostRoot, "proc/1")))
		}, "the node's namespaces"},
		"another kubelet folder": {container, func(w *world) { w.KubeletDir = "/var/lib/other" }, "--kubelet-dir"},
		"the token of another Pod": {container, func(w *world) {
			w.PodUID = "other"
			other := filepath.Join(w.KubeletDir, "pods/other/volumes/kubernetes.io~projected/token")
			w.must(os.MkdirAll(other, 0o755))
			w.must(os.WriteFile(filepath.Join(other, "token"), []byte("stolen"), 0o600))
		}, "not the folder that is mounted in the Pod"},
		"a UID that is a path": {container, func(w *world) { w.PodUID = "../x" }, "POD_UID"},
		"no programs":          {container, func(w *world) { w.Programs = "/nonexistent" }, "the agent's program on the node"},
		"other programs": {container, func(w *world) {
			w.Programs = w.TempDir()
			w.must(os.WriteFile(filepath.Join(w.Programs, "bottle-operator"), []byte("#!/bin/sh\necho started"), 0o755))
		}, "the same image"},
		"a relative path": {container, func(w *world) { w.HostRoot = "host" }, "--host-root"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tt.prepare(w)
			out, problem := w.start(tt.namespaces)
			if len(out) > 0 || !strings.Contains(problem, tt.want) {
				t.Errorf("got %q and on stderr %q, want only %q there", out, problem, tt.want)
			}
		})
	}
}

// The kubelet may have another folder than the usual one.
func TestMountPoints(t *testing.T) {
	const mounts = `25 1 8:1 / / rw - ext4 /dev/sda1 rw
40 25 0:51 / /var/lib/k0s/kubelet/pods/x/volumes/kubernetes.io~projected/token rw shared:9 - tmpfs tmpfs rw
41 25 0:51 /other /elsewhere rw - tmpfs tmpfs rw
42 25 0:52 / /with\040space\134 rw - tmpfs tmpfs rw
43 25 0:5 / /other rw - tmpfs tmpfs rw
torn 25 0:51
`
	for device, want := range map[uint64][]string{
		unix.Mkdev(0, 51): {"/var/lib/k0s/kubelet/pods/x/volumes/kubernetes.io~projected/token"},
		unix.Mkdev(0, 52): {`/with space\`}, unix.Mkdev(8, 1): {"/"}, unix.Mkdev(0, 1): nil,
	} {
		if got := mountPoints(mounts, device); !slices.Equal(got, want) {
			t.Errorf("%x: got %q, want %q", device, got, want)
		}
	}
}

// With the token's volume mounted at an unusual place, the agent still finds it.
func TestRunFindsTheToken(t *testing.T) {
	w := newWorld(t)
	usual := w.KubeletDir
	w.KubeletDir = "/var/lib/other"
	// The volume is a mount of its own, in the mounts of the node and of the container.
	cmd := exec.Command("/bin/sh", "-c", `nsenter -t "$1" -m mount -t tmpfs none "$2" && nsenter -t "$1" -m sh -c 'echo found >"$1/token"' sh "$2"`, "sh", strconv.Itoa(w.init), w.TokenDir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mount the volume: %v: %s", err, out)
	}
	// As the container runtime does, the container gets the node's mount.
	w.TokenDir = fmt.Sprintf("/proc/%d/root%s", w.init, w.TokenDir)
	out, problem := w.start(container)
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("got %q, %v, and on stderr %q, want the agent's report", out, err, problem)
	}
	want := filepath.Join(usual, "pods", w.PodUID, "volumes/kubernetes.io~projected/token")
	if got := r.Args[len(r.Args)-1]; got != want || r.Token != "found\n" {
		t.Errorf("got %s with %q, %s, want %s", got, r.Token, r.TokenErr, want)
	}
}
