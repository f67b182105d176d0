// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/docker/dockertest"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/ownthread"
	"botbottle.dev/bottle-operator/test/require"
)

// The tests run in their own network namespace, which stands for the node's and has
// no route out of the machine, and with their own mounts.
func TestMain(m *testing.M) { dockertest.Main(m) }

// world is the node: walls, bridges that stand for docker's, and bundles.
type world struct {
	walls *Walls
	// tested are these walls, or those in Pods.
	tested host.Walls
	mu     sync.Mutex
	// bundles are the network namespaces of the bundles, by bridge.
	bundles map[string]*os.File
}

func newWorld(t testing.TB) *world {
	t.Helper()
	require.Root(t)
	for _, tool := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			require.Unmet(t, "needs "+tool+": install Debian's iproute2 and nftables")
		}
	}
	w := &world{walls: New(Options{}), bundles: map[string]*os.File{}}
	w.tested = w.walls
	t.Cleanup(func() { w.wantNothingLeft(t) })
	return w
}

// wantNothingLeft runs at the end of every test. It checks that nothing of a wall is
// left.
func (w *world) wantNothingLeft(t testing.TB) {
	t.Helper()
	wantThreadsInOneNetNS(t)
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if name := l.Attrs().Name; name != "lo" && fallbacks[name] == "" {
			t.Errorf("links at the end: got %s, want none", name)
		}
	}
	if left, _ := filepath.Glob(DefaultDir + "/*"); len(left) > 0 {
		t.Errorf("namespaces at the end: got %v, want none", left)
	}
	if out := run(t, "nft", "list", "tables"); out != "" {
		t.Errorf("tables at the end: got %q, want none", out)
	}
}

// run runs a program as the node's administrator would.
func run(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

// newSpec returns the spec of a wall. No other test uses the same owner.
func newSpec(t testing.TB, third int) host.WallSpec {
	t.Helper()
	sum := machineMAC(host.Owner{UID: t.Name() + fmt.Sprint(third)})
	return host.WallSpec{
		Owner:     host.Owner{UID: fmt.Sprintf("%x-0000-4000-8000-%012d", []byte(sum[1:5]), third), Namespace: "team-a", Name: "demo", Slug: "demo", Cluster: "cluster-1", Node: "node-1"},
		Subnet:    netip.MustParsePrefix(fmt.Sprintf("192.168.%d.0/24", third)),
		BundleIP:  netip.MustParseAddr(fmt.Sprintf("192.168.%d.2", third)),
		MachineIP: netip.MustParseAddr(fmt.Sprintf("192.168.%d.3", third)),
		Ports:     []int32{8888},
	}
}

// addBridge makes the bridge, with the gateway's address on it.
func (w *world) addBridge(t testing.TB, spec host.WallSpec) {
	t.Helper()
	name := spec.Owner.Bridge()
	run(t, "ip", "link", "add", name, "type", "bridge")
	t.Cleanup(func() { _ = deleteLink(name) })
	gateway := netip.PrefixFrom(spec.Subnet.Addr().Next(), spec.Subnet.Bits())
	run(t, "ip", "addr", "add", gateway.String(), "dev", name)
	run(t, "ip", "link", "set", name, "up")
}

// addBundle makes the bridge and a bundle in it that listens on TCP ports, on
// UDP 8888, and over IPv6.
func (w *world) addBundle(t testing.TB, spec host.WallSpec, ports ...int32) {
	t.Helper()
	w.addBridge(t, spec)
	ns := anonymousNetNS(t)
	peer := "pb-" + spec.Owner.UID8()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: peer}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}))
	run(t, "ip", "link", "set", peer, "master", spec.Owner.Bridge(), "up")
	w.mu.Lock()
	w.bundles[spec.Owner.Bridge()] = ns
	w.mu.Unlock()
	t.Cleanup(func() { _ = deleteLink(peer) })
	mac := host.BundleMAC(spec.BundleIP)
	address := &net.IPNet{IP: spec.BundleIP.AsSlice(), Mask: net.CIDRMask(spec.Subnet.Bits(), 32)}
	must(t, inNetNS(ns, func(h *netlink.Handle) error {
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(h.LinkSetHardwareAddr(eth0, mac), h.AddrAdd(eth0, &netlink.Addr{IPNet: address}), h.LinkSetUp(eth0))
	}))
	for _, port := range ports {
		listenIn(t, ns, netip.AddrPortFrom(spec.BundleIP, uint16(port)))
	}
}

func (w *world) removeBridge(t testing.TB, spec host.WallSpec) {
	t.Helper()
	must(t, deleteLink("pb-"+spec.Owner.UID8()))
	must(t, deleteLink(spec.Owner.Bridge()))
}

// anonymousNetNS returns a network namespace that exists until the test ends.
func anonymousNetNS(t testing.TB) *os.File {
	t.Helper()
	var ns *os.File
	must(t, ownthread.Run(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		ns, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		return err
	}))
	t.Cleanup(func() { ns.Close() })
	return ns
}

// in runs f on a thread in the network namespace.
func in(t testing.TB, ns *os.File, f func() error) error {
	t.Helper()
	return ownthread.Run(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// listenIn starts a server that answers every connection with "hello".
func listenIn(t testing.TB, ns *os.File, address netip.AddrPort) {
	t.Helper()
	l := listenOn(t, ns, address)
	t.Cleanup(func() { l.Close() })
}

// listenOn does the same for a listener that the caller closes.
func listenOn(t testing.TB, ns *os.File, address netip.AddrPort) net.Listener {
	t.Helper()
	return serveIn(t, ns, address, "hello", nil)
}

// serveIn answers every connection with a text, and reports it to seen if there is room.
func serveIn(t testing.TB, ns *os.File, address netip.AddrPort, text string, seen chan<- struct{}) net.Listener {
	t.Helper()
	var l net.Listener
	network := "tcp4"
	if address.Addr().Is6() {
		network = "tcp6"
	}
	must(t, in(t, ns, func() (err error) {
		l, err = net.Listen(network, address.String())
		return err
	}))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			select {
			case seen <- struct{}{}:
			default:
			}
			fmt.Fprint(c, text)
			c.Close()
		}
	}()
	return l
}

// wallNS opens a wall's namespace.
func wallNS(t testing.TB, wall host.Wall) *os.File {
	t.Helper()
	ns, err := os.Open(wall.Path)
	must(t, err)
	t.Cleanup(func() { ns.Close() })
	return ns
}

// dial connects from within a namespace and returns what it received.
func dial(t testing.TB, ns *os.File, address netip.AddrPort, limit time.Duration) (got string, err error) {
	t.Helper()
	err = in(t, ns, func() error {
		c, err := net.DialTimeout("tcp", address.String(), limit)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(limit))
		b := make([]byte, 16)
		n, err := c.Read(b)
		got = string(b[:n])
		return err
	})
	return got, err
}

// stand makes a wall, which is deleted at the end of the test.
func (w *world) stand(t testing.TB, spec host.WallSpec) host.Wall {
	t.Helper()
	t.Cleanup(func() { w.remove(t, spec) })
	wall, err := w.tested.EnsureWall(t.Context(), spec)
	must(t, err)
	if len(wall.Faults) > 0 {
		t.Fatalf("ensure: got faults %v, want none", wall.Faults)
	}
	return wall
}

func (w *world) remove(t testing.TB, spec host.WallSpec) {
	t.Helper()
	if err := w.tested.DeleteWall(background(t), spec.Owner); err != nil {
		t.Errorf("delete: got %v, want nil", err)
	}
}

func (w *world) inspect(t testing.TB, spec host.WallSpec) host.Wall {
	t.Helper()
	walls, err := w.tested.InspectWalls(t.Context(), []host.WallSpec{spec})
	must(t, err)
	return walls[0]
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("got %v, want nil", err)
	}
}

func describe(faults []host.WallFault) string {
	var out []string
	for _, f := range faults {
		word := "closed: "
		if f.Open {
			word = "open: "
		}
		out = append(out, word+f.What)
	}
	return strings.Join(out, "\n")
}
