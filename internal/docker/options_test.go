// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"
	"github.com/vishvananda/netlink"

	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/docker/dockertest"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/wall"
)

// hostileOptions are default-network-opts that each keep a bundle from working, or
// open it to other hosts.
var hostileOptions = map[string]string{
	"com.docker.network.bridge.enable_icc":              "false",
	"com.docker.network.bridge.enable_ip_masquerade":    "false",
	"com.docker.network.bridge.gateway_mode_ipv4":       "routed",
	"com.docker.network.bridge.inhibit_ipv4":            "true",
	"com.docker.network.bridge.trusted_host_interfaces": "up0",
	"com.docker.network.bridge.host_binding_ipv4":       "127.0.0.1",
	"com.docker.network.driver.mtu":                     "9000",
}

// startWithDefaults starts a dockerd with a daemon.json and default-network-opts for
// bridge networks. A dockerd older than 24 does not know these: a front adds them to
// each new network, as newer ones do.
func startWithDefaults(t *testing.T, executable string, config map[string]any, defaults map[string]string) (*dockertest.Daemon, *Engine) {
	t.Helper()
	flushRules(t)
	config, inFront := maps.Clone(config), dockertest.Release(t) < 24
	if len(defaults) > 0 && !inFront {
		config["default-network-opts"] = map[string]any{"bridge": defaults}
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	d := dockertest.StartWith(t, string(text))
	f := newFront(t, d)
	if inFront {
		f.with(func(_ http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/networks/create") {
				return false
			}
			var body map[string]any
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				return false
			}
			options, _ := body["Options"].(map[string]any)
			if options == nil {
				options = map[string]any{}
			}
			for name, value := range defaults {
				if _, ok := options[name]; !ok {
					options[name] = value
				}
			}
			body["Options"] = options
			changed, _ := json.Marshal(body)
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(changed)), int64(len(changed))
			return false
		})
	}
	e := f.engine(t)
	if _, err := e.LoadBundleImage(t.Context(), executable); err != nil {
		t.Fatal(err)
	}
	return d, e
}

// flushRules removes the rules that an earlier dockerd left in the network namespace.
func flushRules(t *testing.T) {
	t.Helper()
	run(t, "nft", "flush", "ruleset")
}

// TestDaemonOptions checks that a bundle works whatever the node's daemon.json says: the
// machine reaches it, it reaches the world, and large answers arrive although the
// uplink drops what is larger than its MTU.
func TestDaemonOptions(t *testing.T) {
	dockertest.Release(t) // skips the test where there is no dockerd
	executable := dockertest.BuildBundle(t)
	for name, tt := range map[string]struct {
		config   map[string]any
		defaults map[string]string
		uplink   int // its MTU
		before   func(t *testing.T)
		want     int // the MTU of the bundle's network
	}{ // Names are short, because they are in the paths of sockets.
		"defaults": {map[string]any{"icc": false}, hostileOptions, 1400, nil, 1400},
		"lower MTU": {map[string]any{"mtu": 9000, "userland-proxy": false, "ipv6": true, "fixed-cidr-v6": "fd00:1::/64",
			"default-address-pools": []map[string]any{{"base": "192.168.0.0/16", "size": 24}}},
			map[string]string{mtuOption: "1280"}, 1400, nil, 1280},
		"no iptables": {map[string]any{"iptables": false}, nil, 1300, func(t *testing.T) {
			// The administrator's own masquerading.
			run(t, "nft", "add table ip admin; add chain ip admin post { type nat hook postrouting priority 100; }; add rule ip admin post oifname up0 masquerade")
		}, 1300},
	} {
		t.Run(name, func(t *testing.T) {
			_, e := startWithDefaults(t, executable, tt.config, tt.defaults)
			addUplink(t, tt.uplink)
			if tt.before != nil {
				tt.before(t)
			}
			wantTransfer(t, e, tt.want)
		})
	}
	t.Run("uplink changes", func(t *testing.T) { uplinkChanges(t, executable) })
}

// uplinkChanges checks that a network with an MTU above the uplink's is replaced when
// its bundle starts again, and not while the bundle runs.
func uplinkChanges(t *testing.T, executable string) {
	d, e := startWithDefaults(t, executable, map[string]any{}, nil)
	c := d.Client(t)
	addUplink(t, 1500)
	spec := builtInSpec(t)
	if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
		t.Fatal(err)
	}
	first, err := e.EnsureBundle(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	old := ensureWall(t, wall.New(wall.Options{}))
	uplink, err := netlink.LinkByName("up0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMTU(uplink, 1300); err != nil {
		t.Fatal(err)
	}
	again, err := e.EnsureBundle(t.Context(), spec)
	if err != nil || again.ContainerID != first.ContainerID || !again.StartedAt.Equal(first.StartedAt) {
		t.Errorf("ensure while it runs: got %+v, %v, want it undisturbed", again, err)
	}
	if _, err := c.ContainerKill(t.Context(), first.ContainerID, client.ContainerKillOptions{Signal: "KILL"}); err != nil {
		t.Fatal(err)
	}
	if now := wantTransfer(t, e, 1300); now.NetNS != old.NetNS {
		t.Errorf("the machine's namespace: got %v, want %v as before", now.NetNS, old.NetNS)
	}
}

// TestBridgeOnTheBottlesSubnet checks that docker's own bridge may be on a subnet of the
// Bottles' pool: that subnet is occupied, and others are not.
func TestBridgeOnTheBottlesSubnet(t *testing.T) {
	flushRules(t)
	d := dockertest.StartWith(t, `{"bip": "192.168.44.1/24"}`)
	e := newEngine(t, d)
	occupied, err := e.OccupiedPrefixes(t.Context(), testOwner)
	if err != nil || !slices.Contains(occupied, testNetwork.Subnet) {
		t.Errorf("occupied: got %v, %v, want %s among them", occupied, err, testNetwork.Subnet)
	}
	if err := e.EnsureNetwork(t.Context(), testNetwork); !errors.Is(err, host.ErrOverlap) {
		t.Errorf("ensure on the bridge's subnet: got %v, want ErrOverlap", err)
	}
	next := host.Network{Owner: testOwner, Subnet: netip.MustParsePrefix("192.168.45.0/24"), Gateway: netip.MustParseAddr("192.168.45.1")}
	if err := e.EnsureNetwork(t.Context(), next); err != nil {
		t.Errorf("ensure on another subnet: got %v, want nil", err)
	}
}

func builtInSpec(t *testing.T) host.BundleSpec {
	t.Helper()
	spec := testSpec
	spec.Image, spec.RulesDir = "", t.TempDir()
	if err := os.Chmod(spec.RulesDir, 0o755); err != nil { // the bundle is not root
		t.Fatal(err)
	}
	writeRules(t, spec.RulesDir, outside.String()+":80")
	return spec
}

// wantTransfer starts the bundle and makes the machine's wall, or repairs it, and
// downloads from inside the wall, through the bundle, from a server beyond the uplink.
func wantTransfer(t *testing.T, e *Engine, mtu int) host.Wall {
	t.Helper()
	if err := e.EnsureNetwork(t.Context(), testNetwork); err != nil {
		t.Fatal(err)
	}
	b, err := e.EnsureBundle(t.Context(), builtInSpec(t))
	if err != nil || !b.Running {
		t.Fatalf("ensure the bundle: got %+v, %v, want it running", b, err)
	}
	waitForPort(t, e)
	walls := wall.New(wall.Options{})
	if before, err := walls.InspectWalls(t.Context(), []host.WallSpec{testWall}); err != nil || slices.ContainsFunc(before[0].Faults, func(f host.WallFault) bool { return f.Open }) {
		t.Errorf("wall before it is repaired: got %+v, %v, want it closed", before, err)
	}
	full, err := e.findBundle(t.Context(), testOwner)
	if err != nil {
		t.Fatal(err)
	}
	links(t, full.State.Pid, func(name string, got int) {
		if name == "eth0" && got != mtu {
			t.Errorf("MTU of the bundle's interface: got %d, want %d", got, mtu)
		}
	})
	made := ensureWall(t, walls)
	end, err := netlink.LinkByName(testOwner.Veth())
	if err != nil {
		t.Fatal(err)
	}
	if got := end.Attrs().MTU; got != mtu {
		t.Errorf("MTU of the wall's link: got %d, want %d", got, mtu)
	}
	ns, err := os.Open(made.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	machine := &node{ns}
	proxy := &url.URL{Scheme: "http", Host: netip.AddrPortFrom(testSpec.IP, bundleimage.Port).String()}
	through := &http.Client{Timeout: time.Minute, Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			machine.do(t, func() { conn, err = new(net.Dialer).DialContext(ctx, network, address) })
			return conn, err
		}}}
	answer, err := through.Get("http://" + outside.String() + "/")
	if err != nil {
		t.Fatalf("download: got %v, want an answer", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK || len(body) != outsideBytes {
		t.Errorf("download: got %s with %d bytes, %v, want all %d", answer.Status, len(body), err, outsideBytes)
	}
	return made
}

// testWall is the wall of the machine in testNetwork.
var testWall = host.WallSpec{
	Owner: testOwner, Subnet: testNetwork.Subnet, BundleIP: testSpec.IP, Ports: []int32{bundleimage.Port},
	MachineIP: netip.MustParseAddr("192.168.44.3"),
}

func ensureWall(t *testing.T, walls *wall.Walls) host.Wall {
	t.Helper()
	w, err := walls.EnsureWall(t.Context(), testWall)
	if err != nil || len(w.Faults) > 0 {
		t.Fatalf("ensure the wall: got %+v, %v, want no faults", w, err)
	}
	t.Cleanup(func() {
		if err := walls.DeleteWall(background(t), testOwner); err != nil {
			t.Errorf("delete the wall: got %v, want nil", err)
		}
	})
	return w
}

// waitForPort waits until the bundle listens.
func waitForPort(t *testing.T, e *Engine) {
	t.Helper()
	for limit := time.After(time.Minute); ; {
		silent, err := e.UnansweredPorts(t.Context(), testSpec.Owner, testSpec.IP, []int32{bundleimage.Port})
		if err != nil {
			t.Fatal(err)
		}
		if len(silent) == 0 {
			return
		}
		select {
		case <-limit:
			t.Fatal("the bundle does not listen within a minute")
		case <-time.After(50 * time.Millisecond):
		}
	}
}
