// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/docker/dockertest"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

func wantLimits(t *testing.T, what string, c container.InspectResponse, cpuMillis, memoryMiB int64) {
	t.Helper()
	hc := c.HostConfig
	if hc.CPUPeriod != cpuPeriod || hc.CPUQuota != cpuMillis*cpuPeriod/1000 || hc.Memory != memoryMiB<<20 || hc.PidsLimit == nil || *hc.PidsLimit != 512 {
		t.Errorf("%s: got CPU %d µs, memory %d, pids %v, want %dm, %d MiB and 512", what, hc.CPUQuota, hc.Memory, hc.PidsLimit, cpuMillis, memoryMiB)
	}
}

// foreignBundle returns an Engine with the network of testSpec and a foreign
// image.
func foreignBundle(t *testing.T, d *dockertest.Daemon) (*Engine, *client.Client, host.BundleSpec) {
	t.Helper()
	d.LoadForeign(t)
	e := newEngine(t, d)
	spec := testSpec
	spec.Image = dockertest.ForeignImage
	if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
		t.Fatal(err)
	}
	return e, d.Client(t), spec
}

func ensure(t *testing.T, e *Engine, spec host.BundleSpec) host.Bundle {
	t.Helper()
	b, err := e.EnsureBundle(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestForeignBundleIsLimited checks that a foreign image gets limits, too, and that new
// limits apply to a running container without a restart.
func TestForeignBundleIsLimited(t *testing.T) {
	e, c, spec := foreignBundle(t, dockertest.Start(t))
	first := ensure(t, e, spec)
	before := inspect(t, c, spec.Owner)
	wantLimits(t, "defaults", before, 250, 128)
	spec.Limits = machinesize.Bundle{CPUMillis: 100, MemoryBytes: 96 << 20}
	second := ensure(t, e, spec)
	after := inspect(t, c, spec.Owner)
	wantLimits(t, "other limits", after, 100, 96)
	if second != first || after.State.Pid != before.State.Pid {
		t.Errorf("other limits: got %+v, want the running container %+v", second, first)
	}
	spec.Limits.CPUMillis = 1_000_000
	ensure(t, e, spec)
	if got := inspect(t, c, spec.Owner).HostConfig.CPUQuota; got < cpuPeriod || got > 1000*cpuPeriod {
		t.Errorf("more CPUs than the node has: got a limit of %d, want all CPUs of the node", got)
	}
	// An earlier release set no limits for foreign images.
	none := int64(-1)
	if err := e.DeleteBundle(t.Context(), spec.Owner); err != nil {
		t.Fatal(err)
	}
	spec.Limits = machinesize.Bundle{}
	options, err := createOptions(spec, spec.Image)
	if err != nil {
		t.Fatal(err)
	}
	options.HostConfig.Resources = container.Resources{PidsLimit: &none}
	if _, err := c.ContainerCreate(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ContainerStart(t.Context(), options.Name, client.ContainerStartOptions{}); err != nil {
		t.Fatal(err)
	}
	old := inspect(t, c, spec.Owner)
	if got := ensure(t, e, spec); got.ContainerID != old.ID {
		t.Errorf("a container of an earlier release: got container %.12s, want %.12s changed in place", got.ContainerID, old.ID)
	}
	wantLimits(t, "a container of an earlier release", inspect(t, c, spec.Owner), 250, 128)
}

// TestBundleOutOfMemory checks that a container stays down for a moment after it was
// killed for using too much memory, and that the reason is reported.
func TestBundleOutOfMemory(t *testing.T) {
	e, c, spec := foreignBundle(t, dockertest.Start(t))
	spec.Limits = machinesize.Bundle{CPUMillis: 500, MemoryBytes: 32 << 20}
	if b := ensure(t, e, spec); b.OutOfMemory {
		t.Errorf("at the start: got out of memory")
	}
	// The kernel kills the container's first process rather than the writer.
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", inspect(t, c, spec.Owner).State.Pid), []byte("1000"), 0); err != nil {
		t.Fatal(err)
	}
	exec, err := c.ExecCreate(t.Context(), spec.Owner.ID(), client.ExecCreateOptions{Cmd: []string{"dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1048576", "count=60"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ExecStart(t.Context(), exec.ID, client.ExecStartOptions{Detach: true}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); inspect(t, c, spec.Owner).State.Running; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the container still runs after 20 s, want it killed for its memory")
		}
	}
	b := ensure(t, e, spec)
	if b.Running || !b.OutOfMemory {
		t.Errorf("after the kill: got %+v, want it down and out of memory", b)
	}
	for deadline := time.Now().Add(2 * restartDelay); !b.Running; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %+v, want it running again after %s", b, restartDelay)
		}
		b = ensure(t, e, spec)
	}
	if b.OutOfMemory {
		t.Error("after the restart: got out of memory")
	}
}

// TestNodeWithoutControllers checks that no bundle starts where docker would
// ignore its limits.
func TestNodeWithoutControllers(t *testing.T) {
	e := engineOn(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/_ping"):
			hangAfterPing(w, r)
		case strings.HasSuffix(r.URL.Path, "/info"):
			fmt.Fprint(w, `{"NCPU":2,"MemoryLimit":false,"SwapLimit":false,"CpuCfsQuota":false,"PidsLimit":false}`)
		default:
			t.Errorf("docker got %s %s, want no request", r.Method, r.URL.Path)
			http.Error(w, "{}", http.StatusInternalServerError)
		}
	})
	// It is a problem of the node, not of the Bottle, and the text is always the same.
	for range 20 {
		_, err := e.EnsureBundle(t.Context(), testSpec)
		if !errors.Is(err, host.ErrUnavailable) || !strings.Contains(err.Error(), "cgroup controllers cpu, memory, pids") {
			t.Fatalf("got %v, want ErrUnavailable that names the controllers", err)
		}
	}
}

// TestBuiltInBundleFitsItsMemory checks that the built-in bundle is not killed
// with as many connections as it accepts: half of them tunnels whose data nobody
// reads, half with headers of almost the maximum size.
func TestBuiltInBundleFitsItsMemory(t *testing.T) {
	const connections, header = 512, 60 << 10
	d := dockertest.Start(t)
	e, c := newEngine(t, d), d.Client(t)
	spec := testSpec
	spec.Image, spec.RulesDir = "", t.TempDir()
	if err := os.Chmod(spec.RulesDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
		t.Fatal(err)
	}
	if _, err := e.LoadBundleImage(t.Context(), dockertest.BuildBundle(t)); err != nil {
		t.Fatal(err)
	}
	outside := netip.MustParseAddr("203.0.113.1")
	addOutside(t, outside)
	server, err := net.Listen("tcp", outside.String()+":443")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			go func() { // send until the other end stops reading
				data := make([]byte, 64<<10)
				for err == nil {
					_, err = conn.Write(data)
				}
			}()
		}
	}()
	writeRules(t, spec.RulesDir, outside.String()+":443")
	ensure(t, e, spec)
	pid := inspect(t, c, spec.Owner).State.Pid
	proxy := netip.AddrPortFrom(spec.IP, bundleimage.Port).String()
	var idle, busy string
	for i := range connections {
		var conn net.Conn
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if conn, err = net.DialTimeout("tcp", proxy, 5*time.Second); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		if i == 0 {
			idle = procStatus(t, pid)["VmRSS"]
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		request := "GET http://x/ HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", header)
		if i%2 == 0 {
			request = fmt.Sprintf("CONNECT %[1]s:443 HTTP/1.1\r\nHost: %[1]s:443\r\n\r\n", outside)
		}
		if _, err := conn.Write([]byte(request)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	for range 20 {
		time.Sleep(100 * time.Millisecond)
		busy = procStatus(t, pid)["VmHWM"]
	}
	in := inspect(t, c, spec.Owner)
	t.Logf("resident: %s kB idle, at most %s kB (of it anonymous now: %s kB) with %d connections", idle, busy, procStatus(t, pid)["RssAnon"], connections)
	if !in.State.Running || in.State.Pid != pid || in.State.OOMKilled {
		t.Errorf("the bundle was killed: got %+v", in.State)
	}
}
