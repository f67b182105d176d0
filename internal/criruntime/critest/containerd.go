// SPDX-License-Identifier: Apache-2.0

// Package critest gives a test its own containerd, with the programs and images in bin, and
// does there what a kubelet does: it makes Pods and containers over the CRI. The test must
// run in namespaces of its own, which dockertest.Main makes. The package installs nothing
// and contacts no registry.
package critest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/test/require"
)

// Images that Start imports.
const (
	PauseImage   = "registry.k8s.io/pause:3.10"
	ForeignImage = "example.test/foreign-bundle:1"
)

const (
	// startLimit is how long containerd may take until it answers.
	startLimit = time.Minute
	// callLimit is how long one call of the CRI may take.
	callLimit = time.Minute
)

// Containerd is a running containerd that a test has started in namespaces of its own.
type Containerd struct {
	// Socket is its address, Dir a folder of the test, and KubeletDir the folder that
	// stands for the kubelet's.
	Socket, Dir, KubeletDir string
	// Built is the reference of the built-in bundle's image.
	Built string

	bin  string
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	pods map[string]*pod
	conn *grpc.ClientConn
	cri  cri.RuntimeServiceClient
}

// Start starts a containerd that ends with the test. If that is impossible, Start skips or
// fails the test.
func Start(t testing.TB) *Containerd {
	t.Helper()
	require.Root(t)
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	require.File(t, filepath.Join(bin, "kubelet", "containerd"), "run make kubelet")
	require.File(t, filepath.Join(bin, "images", "pause.tar"), "run make kubelet")
	if _, err := exec.LookPath("runc"); err != nil {
		require.Unmet(t, "needs runc: install Debian's runc or docker.io")
	}
	dir := t.TempDir()
	c := &Containerd{Dir: dir, KubeletDir: filepath.Join(dir, "kubelet"), bin: bin, pods: map[string]*pod{}}
	// The kernel bounds the path of a socket (108 bytes). /run is the test's own.
	socket := filepath.Join("/run", fmt.Sprintf("critest-%d.sock", time.Now().UnixNano()))
	c.Socket = "unix://" + socket
	c.writeConfig(t, socket)
	t.Cleanup(func() { c.cleanUp(t) })
	c.Restart(t)
	c.conn, err = grpc.NewClient(c.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	c.cri = cri.NewRuntimeServiceClient(c.conn)
	for _, archive := range []string{"pause", "foreign-bundle", "bundle"} {
		c.ctr(t, "images", "import", filepath.Join(bin, "images", archive+".tar"))
	}
	for name := range strings.FieldsSeq(c.ctr(t, "images", "list", "-q")) {
		if strings.HasPrefix(name, "botbottle.dev/bundle:") {
			c.Built = name
		}
	}
	return c
}

func (c *Containerd) writeConfig(t testing.TB, socket string) {
	t.Helper()
	config := fmt.Sprintf(`version = 3
root = '%[1]s/root'
state = '/run/%[3]s.state'
[grpc]
address = '%[2]s'
[plugins.'io.containerd.internal.v1.opt']
path = '%[1]s/opt'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = '`+PauseImage+`'
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ['%[4]s/kubelet']
conf_dir = '%[1]s/cni'
`, c.Dir, socket, filepath.Base(socket), c.bin)
	network := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "mtu": 1400,
   "ipam": {"type": "host-local", "dataDir": "%s/ipam", "ranges": [[{"subnet": "10.244.9.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
]}`, c.Dir)
	for name, text := range map[string]string{"config.toml": config, "cni/10-bridge.conflist": network} {
		file := filepath.Join(c.Dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Restart starts containerd, unless it is running, and waits until it answers.
func (c *Containerd) Restart(t testing.TB) {
	t.Helper()
	if c.cmd != nil {
		return
	}
	log, err := os.OpenFile(filepath.Join(c.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(c.bin, "kubelet", "containerd"), "--config", filepath.Join(c.Dir, "config.toml"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + filepath.Join(c.bin, "kubelet") + ":" + os.Getenv("PATH"), "HOME=" + c.Dir}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.cmd, c.done = cmd, make(chan struct{})
	go func(done chan struct{}) {
		_ = cmd.Wait() // its log has the reason
		close(done)
	}(c.done)
	for deadline := time.After(startLimit); ; {
		if out, err := c.tryCtr("version"); err == nil && strings.Contains(out, "Server") && c.criReady() {
			return
		}
		select {
		case <-c.done:
			t.Fatalf("critest: containerd ended:\n%s", c.logTail())
		case <-deadline:
			t.Fatalf("critest: containerd does not answer within %s:\n%s", startLimit, c.logTail())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// criReady reports whether the CRI serves and has its network.
func (c *Containerd) criReady() bool {
	conn, err := grpc.NewClient(c.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := cri.NewRuntimeServiceClient(conn).Status(ctx, &cri.StatusRequest{})
	return err == nil && !slices.ContainsFunc(out.Status.Conditions, func(c *cri.RuntimeCondition) bool {
		return !c.Status && (c.Type == "RuntimeReady" || c.Type == "NetworkReady")
	})
}

// Kill kills containerd as a crash would; its containers keep running. Restart starts it
// again.
func (c *Containerd) Kill(t testing.TB) {
	t.Helper()
	if c.cmd == nil {
		return
	}
	_ = c.cmd.Process.Kill()
	<-c.done
	c.cmd = nil
}

func (c *Containerd) ctr(t testing.TB, args ...string) string {
	t.Helper()
	out, err := c.tryCtr(args...)
	if err != nil {
		t.Fatalf("critest: ctr %q: %v\n%s\n%s", args, err, out, c.logTail())
	}
	return out
}

func (c *Containerd) tryCtr(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	args = append([]string{"--address", strings.TrimPrefix(c.Socket, "unix://"), "--namespace", "k8s.io"}, args...)
	out, err := exec.CommandContext(ctx, filepath.Join(c.bin, "kubelet", "ctr"), args...).CombinedOutput()
	return string(out), err
}

func (c *Containerd) logTail() string {
	data, _ := os.ReadFile(filepath.Join(c.Dir, "log"))
	return string(data[max(0, len(data)-1500):])
}

// cgroup is the parent of the Pods' cgroups.
func (c *Containerd) cgroup() string { return "/critest-" + filepath.Base(filepath.Dir(c.Dir)) }

// cleanUp removes the Pods, ends containerd, and removes what is outside the test's
// namespaces.
func (c *Containerd) cleanUp(t testing.TB) {
	if c.cri != nil {
		c.Restart(t)
		for _, p := range c.pods {
			c.removePod(t, p)
		}
		_ = c.conn.Close()
	}
	c.Kill(t)
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Error(err)
	}
	var below []string
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], c.Dir+"/") {
			below = append(below, f[1])
		}
	}
	for _, m := range slices.Backward(below) {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*" + c.cgroup(), "/sys/fs/cgroup" + c.cgroup()} {
		parents, _ := filepath.Glob(pattern)
		for _, p := range parents {
			removeCgroup(p)
		}
	}
}

// removeCgroup removes a cgroup with everything below it. Its processes have ended.
func removeCgroup(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeCgroup(filepath.Join(dir, e.Name()))
		}
	}
	_ = unix.Rmdir(dir)
}
