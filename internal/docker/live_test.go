// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/docker/dockertest"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/vault"
)

// TestBuiltInBundle checks the built-in bundle as a Bottle uses it: its image is
// made and loaded, its rights are limited, and it follows changes of its rules.
func TestBuiltInBundle(t *testing.T) {
	d := dockertest.Start(t)
	e, c := newEngine(t, d), d.Client(t)
	spec := testSpec
	spec.Image, spec.RulesDir = "", t.TempDir()
	// The bundle is not root.
	if err := os.Chmod(spec.RulesDir, 0o755); err != nil {
		t.Fatal(err)
	}
	v := vault.New(vault.Options{Dir: filepath.Join(t.TempDir(), "vault"), Reader: bundleimage.UserID})
	t.Cleanup(func() { _ = v.Sweep(context.WithoutCancel(t.Context()), nil) })
	var err error
	if spec.SecretsDir, err = v.EnsureFolder(t.Context(), spec.Owner.UID); err != nil {
		t.Fatal(err)
	}
	if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
		t.Fatal(err)
	}
	if _, err := e.EnsureBundle(t.Context(), spec); !errors.Is(err, host.ErrNotFound) {
		t.Fatalf("before the image is loaded: got %v, want ErrNotFound", err)
	}
	executable := dockertest.BuildBundle(t)
	reference, err := e.LoadBundleImage(t.Context(), executable)
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.EnsureBundle(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if b.Image != reference || !strings.HasPrefix(reference, bundleimage.Repository+":") {
		t.Errorf("image: got %q, want the loaded %q", b.Image, reference)
	}
	t.Run("rights", func(t *testing.T) { wantHardened(t, c, spec) })
	t.Run("secrets", func(t *testing.T) { wantSecrets(t, c, spec, v) })
	t.Run("another vault", func(t *testing.T) {
		if err := unix.Unmount(filepath.Dir(filepath.Dir(spec.SecretsDir)), unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		if _, err := v.EnsureFolder(t.Context(), spec.Owner.UID); err != nil {
			t.Fatal(err)
		}
		if b, err := e.EnsureBundle(t.Context(), spec); err != nil || !b.Running {
			t.Fatalf("ensure: got %+v, %v, want it running", b, err)
		}
		wantSecrets(t, c, spec, v)
	})
	t.Run("rules", func(t *testing.T) { wantLiveRules(t, spec) })
	t.Run("decisions", func(t *testing.T) { wantDecisions(t, e, spec) })
	t.Run("missing image", func(t *testing.T) {
		if err := e.DeleteBundle(t.Context(), spec.Owner); err != nil {
			t.Fatal(err)
		}
		if _, err := c.ImageRemove(t.Context(), reference, client.ImageRemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		if _, err := e.EnsureBundle(t.Context(), spec); err != nil {
			t.Errorf("ensure: got %v, want the image loaded again", err)
		}
	})
}

func wantHardened(t *testing.T, c *client.Client, spec host.BundleSpec) {
	in := inspect(t, c, spec.Owner)
	status := procStatus(t, in.State.Pid)
	for key, want := range map[string]string{
		"Uid": "65532", "Gid": "65532", "CapEff": "0000000000000000", "CapPrm": "0000000000000000",
		"CapBnd": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
	} {
		if status[key] != want {
			t.Errorf("%s of the process: got %q, want %q", key, status[key], want)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", in.State.Pid))
	if err != nil {
		t.Fatal(err)
	}
	readOnly := 0
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if (f[1] == "/" || f[1] == bundleimage.RulesDir || f[1] == bundleimage.SecretsDir) && strings.HasPrefix(f[3], "ro") {
			readOnly++
		}
	}
	if readOnly != 3 {
		t.Errorf("read-only root, rules and secrets: got %d of 3 in\n%s", readOnly, mounts)
	}
	hc := in.HostConfig
	if hc.RestartPolicy.Name != container.RestartPolicyDisabled || hc.Privileged || len(hc.PortBindings) > 0 {
		t.Errorf("host config: got restart %q, privileged %v, published %v, want none of them", hc.RestartPolicy.Name, hc.Privileged, hc.PortBindings)
	}
	if hc.Memory != 128<<20 || hc.MemorySwap != 128<<20 || hc.CPUQuota != cpuPeriod/4 || hc.PidsLimit == nil || *hc.PidsLimit != 512 || hc.LogConfig.Config["max-size"] != logSize {
		t.Errorf("bounds: got memory %d, with swap %d, CPU %d, pids %v, logs %v", hc.Memory, hc.MemorySwap, hc.CPUQuota, hc.PidsLimit, hc.LogConfig)
	}
}

// wantSecrets checks that a running bundle has what is put into the vault, and that
// docker does not know it.
func wantSecrets(t *testing.T, c *client.Client, spec host.BundleSpec, v host.Vault) {
	const value = "hunter2-hunter2-hunter2"
	var written string
	for range 2 { // once more for a replaced file
		written = value + time.Now().String()
		if err := v.WriteFile(t.Context(), spec.Owner.UID, "secrets.json", []byte(written)); err != nil {
			t.Fatal(err)
		}
	}
	in := inspect(t, c, spec.Owner)
	inside := fmt.Sprintf("/proc/%d/root%s/secrets.json", in.State.Pid, bundleimage.SecretsDir)
	if data, err := os.ReadFile(inside); err != nil || string(data) != written {
		t.Errorf("in the bundle: got %q, %v, want %q", data, err, written)
	}
	if info, err := os.Stat(inside); err == nil && info.Sys().(*syscall.Stat_t).Uid != bundleimage.UserID {
		t.Errorf("the file belongs to %d, want the bundle's user", info.Sys().(*syscall.Stat_t).Uid)
	}
	known, err := json.Marshal(in)
	if err != nil || !strings.Contains(string(known), spec.SecretsDir) || strings.Contains(string(known), value) {
		t.Errorf("docker knows more than the folder: %v, %s", err, known)
	}
}

// wantLiveRules sends requests through the bundle to a server on a simulated
// outside network.
func wantLiveRules(t *testing.T, spec host.BundleSpec) {
	outside := netip.MustParseAddr("203.0.113.1")
	addOutside(t, outside)
	for addr, answer := range map[netip.Addr]string{outside: "outside", testNetwork.Gateway: "gateway"} {
		server, err := net.Listen("tcp", addr.String()+":80")
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		go func() {
			_ = http.Serve(server, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
		}()
	}
	proxy := &url.URL{Scheme: "http", Host: netip.AddrPortFrom(spec.IP, bundleimage.Port).String()}
	through := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy)}, Timeout: 5 * time.Second}
	request := func(host string) (int, string) {
		resp, err := through.Get("http://" + host + "/")
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	want := func(what, host string, status int, part string) {
		t.Helper()
		var got int
		var body string
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if got, body = request(host); got == status && strings.Contains(body, part) {
				return
			}
		}
		t.Errorf("%s: got %d %q, want %d with %q", what, got, body, status, part)
	}
	want("without rules", outside.String(), 403, "no egress rule")
	gateway := testNetwork.Gateway.String()
	writeRules(t, spec.RulesDir, outside.String()+":80", spec.Owner.ID()+":80", gateway+":80", testNetwork.Subnet.String()+":80", "0.0.0.0/0:82")
	want("with a rule", outside.String(), 200, "outside")
	want("another port", outside.String()+":81", 403, "no egress rule")
	// Docker's resolver answers, and the bundle checks the address.
	want("a name with an inside address", spec.Owner.ID(), 403, "in the bundle's own network")
	want("the gateway", gateway, 403, "in the bundle's own network")
	want("the machine's address", "192.168.44.3", 403, "in the bundle's own network")
	want("the gateway with a rule for all addresses", gateway+":82", 403, "in the bundle's own network")
	writeRules(t, spec.RulesDir)
	want("after the rule was removed", outside.String(), 403, "no egress rule")
}

// wantDecisions checks that the bundle's log has decisions on the requests of
// wantLiveRules.
func wantDecisions(t *testing.T, e *Engine, spec host.BundleSpec) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	missing := map[string]bool{"allow 203.0.113.1:80 rule ": true, "deny 203.0.113.1:81 no egress rule ": true, "deny 192.168.44.1:80 address 192.168.44.1 ": true}
	err := e.FollowDecisions(ctx, spec.Owner, time.Time{}, func(d host.Decision) {
		got := fmt.Sprintf("%s %s:%d %s", d.Verdict, d.Host, d.Port, d.Reason)
		for want := range missing {
			if strings.HasPrefix(got, want) && time.Since(d.Time) < time.Minute {
				delete(missing, want)
			}
		}
		if len(missing) == 0 {
			cancel()
		}
	})
	if err != nil || len(missing) > 0 {
		t.Errorf("follow: got %v, and missed %v", err, missing)
	}
}

func addOutside(t *testing.T, addr netip.Addr) {
	t.Helper()
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "outside"}}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(24, 32)}}
	if err := errors.Join(netlink.AddrAdd(link, a), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
}

func writeRules(t *testing.T, dir string, rules ...string) {
	t.Helper()
	set, err := egress.ParseSet(rules)
	if err != nil {
		t.Fatal(err)
	}
	b, err := egress.EncodeFile(set)
	if err != nil {
		t.Fatal(err)
	}
	tmp := filepath.Join(dir, ".egress.json")
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, bundleimage.RulesFile)); err != nil {
		t.Fatal(err)
	}
}

// TestForeignBundleRights checks that a foreign image runs with its own user and
// docker's default rights, without NET_RAW.
func TestForeignBundleRights(t *testing.T) {
	d := dockertest.Start(t)
	e, c, spec := foreignBundle(t, d)
	if _, err := e.EnsureBundle(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	in := inspect(t, c, spec.Owner)
	status := procStatus(t, in.State.Pid)
	// Docker's default capabilities are a80425fb; NET_RAW is bit 13.
	for key, want := range map[string]string{"CapBnd": "00000000a80405fb", "NoNewPrivs": "1", "Uid": "0"} {
		if status[key] != want {
			t.Errorf("%s of the process: got %q, want %q", key, status[key], want)
		}
	}
	if in.HostConfig.ReadonlyRootfs || in.HostConfig.RestartPolicy.Name != container.RestartPolicyDisabled {
		t.Errorf("host config: got read-only %v, restart %q, want a writable root and no restarts", in.HostConfig.ReadonlyRootfs, in.HostConfig.RestartPolicy.Name)
	}
}

func inspect(t *testing.T, c *client.Client, owner host.Owner) container.InspectResponse {
	t.Helper()
	out, err := c.ContainerInspect(t.Context(), owner.ID(), client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out.Container
}

// procStatus returns the first value of each line of a process's status.
func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(b)) {
		key, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); len(f) > 0 {
			out[key] = f[0]
		}
	}
	return out
}
