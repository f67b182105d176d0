// SPDX-License-Identifier: Apache-2.0

package dockertest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/test/require"
)

const (
	// startLimit is how long dockerd may take until it answers.
	startLimit = time.Minute
	// stopLimit is how long dockerd may take to end after a signal.
	stopLimit = 20 * time.Second
)

// Daemon is a dockerd in the namespaces that Main made.
type Daemon struct {
	// Host is the daemon's address.
	Host   string
	dir    string
	config string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// Start starts a dockerd that ends with the test. If that is impossible, Start
// skips or fails the test.
func Start(t testing.TB) *Daemon {
	t.Helper()
	return StartWith(t, "{}")
}

// StartWith does the same as Start, with the content of daemon.json.
func StartWith(t testing.TB, config string) *Daemon {
	t.Helper()
	require.Root(t)
	if _, err := exec.LookPath("dockerd"); err != nil {
		require.Unmet(t, "needs dockerd: install Debian's docker.io or Docker Engine")
	}
	if os.Getenv(stageEnv) != stageTests {
		t.Fatal("dockertest.Start: the package's TestMain does not call dockertest.Main")
	}
	dir := t.TempDir()
	d := &Daemon{Host: "unix://" + filepath.Join(dir, "docker.sock"), dir: dir, config: config}
	t.Cleanup(func() {
		d.Kill(t)
		d.cleanUp(t)
	})
	d.Restart(t)
	return d
}

// Release returns the release of the node's dockerd: 20 for 20.10, for example.
func Release(t testing.TB) int {
	t.Helper()
	out, err := exec.Command("dockerd", "--version").Output()
	if err != nil {
		require.Unmet(t, "needs dockerd: install Debian's docker.io or Docker Engine")
	}
	_, version, _ := strings.Cut(string(out), "version ")
	major, _, _ := strings.Cut(version, ".")
	release, err := strconv.Atoi(major)
	if err != nil {
		t.Fatalf("dockertest: dockerd --version: got %q, want a version", out)
	}
	return release
}

// Restart starts dockerd, unless it is running, and waits until it answers.
func (d *Daemon) Restart(t testing.TB) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd != nil {
		return
	}
	for range maxAttempts {
		if d.start(t) {
			return
		}
	}
	t.Fatalf("dockertest: dockerd ended:\n%s", d.logTail())
}

// dockerd gives its containerd 15 s to start, which on a busy machine may not be enough. It
// then ends with this message.
const (
	lateContainerd = "timeout waiting for containerd to start"
	maxAttempts    = 3
)

// start starts dockerd and waits until it answers. It returns false if dockerd ended because
// its containerd was late.
func (d *Daemon) start(t testing.TB) bool {
	t.Helper()
	log, err := os.OpenFile(d.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("dockertest: %v", err)
	}
	defer log.Close()
	cmd := exec.Command("dockerd",
		"--data-root="+filepath.Join(d.dir, "data"), "--exec-root="+filepath.Join(d.dir, "exec"),
		"--pidfile="+filepath.Join(d.dir, "pid"), "--host="+d.Host,
		"--cgroup-parent="+d.cgroup(), "--config-file="+filepath.Join(d.dir, "daemon.json"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir}
	if err := os.WriteFile(filepath.Join(d.dir, "daemon.json"), []byte(d.config), 0o600); err != nil {
		t.Fatalf("dockertest: %v", err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("dockertest: start dockerd: %v", err)
	}
	d.cmd, d.done = cmd, make(chan struct{})
	go func(done chan struct{}) {
		_ = cmd.Wait() // its log has the reason
		close(done)
	}(d.done)
	return d.waitReady(t)
}

func (d *Daemon) waitReady(t testing.TB) bool {
	t.Helper()
	c := d.Client(t)
	deadline := time.After(startLimit)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		_, err := c.Ping(ctx, client.PingOptions{})
		cancel()
		if err == nil {
			return true
		}
		select {
		case <-d.done:
			if strings.Contains(d.logTail(), lateContainerd) {
				return false
			}
			t.Fatalf("dockertest: dockerd ended:\n%s", d.logTail())
		case <-deadline:
			t.Fatalf("dockertest: dockerd does not answer within %s: %v\n%s", startLimit, err, d.logTail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Kill kills dockerd as a crash would; its containers keep running. Restart
// starts it again.
func (d *Daemon) Kill(t testing.TB) {
	t.Helper()
	d.signal(t, unix.SIGKILL)
}

// Stop asks dockerd to shut down, which also stops its containers, and waits until
// it has exited.
func (d *Daemon) Stop(t testing.TB) {
	t.Helper()
	d.signal(t, unix.SIGTERM)
}

func (d *Daemon) signal(t testing.TB, s os.Signal) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return
	}
	_ = d.cmd.Process.Signal(s) // an error means that it has ended
	select {
	case <-d.done:
	case <-time.After(stopLimit):
		_ = d.cmd.Process.Kill()
		<-d.done
	}
	d.cmd = nil
}

// ContainersDir returns the folder in which dockerd keeps a folder for each container.
func (d *Daemon) ContainersDir() string { return filepath.Join(d.dir, "data", "containers") }

// Client returns a client of the daemon.
func (d *Daemon) Client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.New(client.WithHost(d.Host))
	if err != nil {
		t.Fatalf("dockertest: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Load loads an image archive.
func (d *Daemon) Load(t testing.TB, archive string) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatalf("dockertest: %v", err)
	}
	defer f.Close()
	answer, err := d.Client(t).ImageLoad(t.Context(), f, client.ImageLoadWithQuiet(true))
	if err != nil {
		t.Fatalf("dockertest: load %s: %v", archive, err)
	}
	_ = answer.Close()
}

// cleanUp kills the processes and removes the mounts and interfaces that a killed
// dockerd leaves behind. A container's end of a link may outlive it for a minute, and
// would answer at the address of the next test's container. cleanUp also removes
// dockerd's control groups, which, unlike the rest, are outside the test's namespaces.
func (d *Daemon) cleanUp(t testing.TB) {
	t.Helper()
	d.killProcesses()
	links, err := netlink.LinkList()
	if err != nil {
		t.Errorf("dockertest: %v", err)
	}
	for _, l := range links {
		if l.Type() == "veth" || l.Type() == "bridge" {
			_ = netlink.LinkDel(l) // it may have gone with its other end
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Errorf("dockertest: %v", err)
	}
	var below []string
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], d.dir+"/") {
			below = append(below, f[1])
		}
	}
	slices.Reverse(below)
	for _, m := range below {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
	parents, _ := filepath.Glob("/sys/fs/cgroup/*" + d.cgroup())
	parents = append(parents, "/sys/fs/cgroup"+d.cgroup())
	for _, p := range parents {
		removeCgroup(p)
	}
}

// killProcesses kills containerd and the containers. It finds them by their
// control groups, and by paths in the daemon's folder in their command lines.
func (d *Daemon) killProcesses() {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		cmdline, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		cgroups, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cgroup"))
		if !strings.Contains(string(cgroups), d.cgroup()) && !strings.Contains(string(cmdline), d.dir+"/exec") {
			continue
		}
		if pid := pidOf(filepath.Base(filepath.Dir(p))); pid > 1 && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

func pidOf(s string) int {
	pid := 0
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0
		}
		pid = pid*10 + int(c-'0')
	}
	return pid
}

// removeCgroup removes a control group and those below it. It retries, because
// the kernel takes a moment to notice that the last process is gone.
func removeCgroup(dir string) {
	for range 20 {
		var dirs []string
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, path := range dirs {
			_ = os.Remove(path)
		}
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
}

// cgroup returns the parent of the containers' control groups.
func (d *Daemon) cgroup() string {
	return "/dockertest-" + strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(d.dir, os.TempDir()+"/"))
}

func (d *Daemon) logPath() string { return filepath.Join(d.dir, "dockerd.log") }

func (d *Daemon) logTail() string {
	b, err := os.ReadFile(d.logPath())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}
