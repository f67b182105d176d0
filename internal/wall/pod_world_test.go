// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/ownthread"
)

// podWorld is a node whose bundles run in Pods.
type podWorld struct {
	*world
	pods *PodWalls
	dir  string // of the Pods' namespaces

	mu  sync.Mutex
	all map[string]*testPod // by the owner's ID
}

// testPod is a Pod with an eth0 that leads to the node.
type testPod struct {
	path string
	id   host.NetNS
	ip   netip.Addr
	veth string // the node's end of eth0's link
	// err is what the lookup returns.
	err       error
	listeners map[int32]net.Listener
}

func newPodWorld(t testing.TB) *podWorld {
	t.Helper()
	w := &podWorld{world: newWorld(t), dir: t.TempDir(), all: map[string]*testPod{}}
	w.pods = NewPods(PodOptions{Namespace: w.lookup})
	w.tested = w.pods
	return w
}

func (w *podWorld) lookup(ctx context.Context, owner host.Owner) (string, host.NetNS, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pod := w.all[owner.ID()]
	if pod == nil {
		return "", host.NetNS{}, host.ErrNotFound
	}
	return pod.path, pod.id, errors.Join(pod.err, ctx.Err())
}

func (w *podWorld) pod(owner host.Owner) *testPod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all[owner.ID()]
}

// fail makes the lookup of the owner's Pod return an error.
func (w *podWorld) fail(owner host.Owner, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[owner.ID()].err = err
}

// addPod makes the Pod's sandbox: a namespace with lo and eth0. Its address depends on the
// third byte of the spec's subnet.
func (w *podWorld) addPod(t testing.TB, spec host.WallSpec) *testPod {
	t.Helper()
	third := spec.Subnet.Addr().As4()[2]
	pod := &testPod{
		ip:        netip.AddrFrom4([4]byte{10, 244, third, 5}),
		veth:      "pv-" + spec.Owner.UID8(),
		listeners: map[int32]net.Listener{},
	}
	gateway := netip.AddrFrom4([4]byte{10, 244, third, 1})
	f, err := os.CreateTemp(w.dir, "cni-")
	must(t, err)
	f.Close()
	pod.path = f.Name()
	must(t, ownthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return bindNetNS(pod.path)
	}))
	pod.id, err = statNetNS(pod.path)
	must(t, err)
	ns, err := os.Open(pod.path)
	must(t, err)
	defer ns.Close()
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: pod.veth}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}))
	must(t, setUp(&netlink.Handle{}, pod.veth, &netlink.Addr{IPNet: ipNet(gateway, 24)}))
	must(t, inNetNS(ns, func(h *netlink.Handle) error {
		return errors.Join(setUp(h, "lo"), setUp(h, "eth0", &netlink.Addr{IPNet: ipNet(pod.ip, 24)}), h.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}))
	}))
	must(t, in(t, ns, func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }))
	w.mu.Lock()
	w.all[spec.Owner.ID()] = pod
	w.mu.Unlock()
	t.Cleanup(func() { w.removePod(t, spec.Owner) })
	return pod
}

// removePod ends the sandbox, as a container runtime does.
func (w *podWorld) removePod(t testing.TB, owner host.Owner) {
	t.Helper()
	if pod := w.pod(owner); pod != nil {
		w.abandonPod(t, owner)
		must(t, deleteLink(pod.veth))
	}
}

// abandonPod ends everything in the sandbox. Nothing but the kernel then deletes its links.
func (w *podWorld) abandonPod(t testing.TB, owner host.Owner) {
	t.Helper()
	w.mu.Lock()
	pod := w.all[owner.ID()]
	delete(w.all, owner.ID())
	w.mu.Unlock()
	for _, l := range pod.listeners {
		l.Close()
	}
	must(t, removeNetNS(pod.path))
}

// runIn runs a program in a network namespace.
func runIn(t testing.TB, path string, argv ...string) string {
	t.Helper()
	return run(t, slices.Concat([]string{"nsenter", "--net=" + path}, argv)...)
}

// addBridge makes the bundle's bridge in the Pod, as criruntime.Networks does.
func (w *podWorld) addBridge(t testing.TB, spec host.WallSpec) {
	t.Helper()
	ns, err := os.Open(w.pod(spec.Owner).path)
	must(t, err)
	defer ns.Close()
	name := spec.Owner.Bridge()
	must(t, inNetNS(ns, func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: host.BundleMAC(spec.BundleIP)}})
	}))
	must(t, in(t, ns, func() error { return os.WriteFile(forwarding(name), []byte("0"), 0) }))
	must(t, inNetNS(ns, func(h *netlink.Handle) error {
		return setUp(h, name, &netlink.Addr{IPNet: ipNet(spec.BundleIP, 32), Peer: ipNet(spec.MachineIP, 32)})
	}))
}

// setUp gives a link its addresses and sets it up.
func setUp(h *netlink.Handle, name string, addresses ...*netlink.Addr) error {
	l, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if err := h.AddrAdd(l, a); err != nil {
			return err
		}
	}
	return h.LinkSetUp(l)
}

func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, 32)}
}

// addBundle makes the Pod, unless it exists, and the bridge, and listens on TCP ports of
// all the Pod's addresses.
func (w *podWorld) addBundle(t testing.TB, spec host.WallSpec, ports ...int32) {
	t.Helper()
	if w.pod(spec.Owner) == nil {
		w.addPod(t, spec)
	}
	w.addBridge(t, spec)
	for _, port := range ports {
		w.listen(t, spec, port)
	}
}

func (w *podWorld) listen(t testing.TB, spec host.WallSpec, port int32) {
	t.Helper()
	pod := w.pod(spec.Owner)
	if pod.listeners[port] != nil {
		return
	}
	ns, err := os.Open(pod.path)
	must(t, err)
	defer ns.Close()
	pod.listeners[port] = listenOn(t, ns, netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port)))
}

func (w *podWorld) removeBridge(t testing.TB, spec host.WallSpec) {
	t.Helper()
	runIn(t, w.pod(spec.Owner).path, "ip", "link", "del", spec.Owner.Bridge())
}

// standing makes a Pod with a bundle, and a wall in front of it.
func (w *podWorld) standing(t testing.TB, third int) (host.WallSpec, *testPod, host.Wall) {
	t.Helper()
	spec := newSpec(t, third)
	w.addBundle(t, spec, 8888, 9099)
	return spec, w.pod(spec.Owner), w.stand(t, spec)
}

// linkGone reports whether a link of the node has disappeared.
func linkGone(name string) bool {
	_, err := netlink.LinkByName(name)
	return errors.As(err, &netlink.LinkNotFoundError{})
}

func mustErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
