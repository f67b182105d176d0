// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/criruntime/critest"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/netns"
	"botbottle.dev/bottle-operator/test/await"
)

// TestRealPods runs what needs a real container runtime and is not in the contract.
func TestRealPods(t *testing.T) {
	c := critest.Start(t)
	for name, run := range map[string]func(t *testing.T, c *critest.Containerd){
		"the sandbox is replaced":           sandboxReplaced,
		"two Pods of one Bottle":            twoPods,
		"a damaged bridge is made again":    bridgeRepaired,
		"an unfinished bridge is no bar":    bridgeUnfinished,
		"occupied prefixes":                 occupiedPrefixes,
		"the log over rotation and restart": logOfRealContainer,
		"folders":                           volumes,
		"containerd is restarted":           runtimeRestarted,
	} {
		t.Run(name, func(t *testing.T) { run(t, c) })
	}
}

func realOwner(uid string) host.Owner {
	o := testOwner
	o.UID = uid + "-0000-0000-0000-000000000000"
	return o
}

func testNetwork(o host.Owner) host.Network {
	return host.Network{Owner: o, Subnet: netip.MustParsePrefix("192.168.33.0/24"), Gateway: netip.MustParseAddr("192.168.33.1")}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sandboxReplaced(t *testing.T, c *critest.Containerd) {
	owner, r := realOwner("11111111"), newRuntime(t, c, Options{Cluster: "cluster-1", Node: "node-1"})
	c.Place(t, owner)
	await.True(t, "events arrive", r.cache.isWatched)
	first, err := r.Pod(t.Context(), owner)
	must(t, err)
	if len(first.IPs) != 1 || !strings.HasPrefix(first.NetNS, "/") || first.Annotations["botbottle.dev/name"] != owner.Name {
		t.Errorf("Pod: got %+v, want one address, a file and the annotation", first)
	}
	must(t, r.Networks().EnsureNetwork(t.Context(), testNetwork(owner)))
	c.StopSandbox(t, owner)
	// The event may come a moment later than the answer to the call.
	await.True(t, "the stop is noticed", func() bool {
		_, err := r.Pod(t.Context(), owner)
		return errors.Is(err, host.ErrNotFound)
	})
	if err := netns.Do(first.NetNS, first.NetNSID, func() error { return nil }); !errors.Is(err, netns.ErrGone) {
		t.Errorf("former namespace: got %v, want ErrGone: nothing may keep it alive", err)
	}
	if _, err := r.Networks().InspectNetwork(t.Context(), owner); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("network without a Pod: got %v, want ErrNotFound", err)
	}
	must(t, r.Networks().DeleteNetwork(t.Context(), owner))
	c.Place(t, owner)
	var second Pod
	await.True(t, "the new sandbox is found", func() bool {
		second, err = r.Pod(t.Context(), owner)
		return err == nil
	})
	if second.SandboxID == first.SandboxID || second.NetNS == first.NetNS || second.UID != first.UID {
		t.Errorf("got %+v after %+v, want another sandbox of the same Pod", second, first)
	}
	if _, err := r.Networks().InspectNetwork(t.Context(), owner); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("network in the new sandbox: got %v, want ErrNotFound", err)
	}
	b, err := r.Bundles().EnsureBundle(t.Context(), host.BundleSpec{Owner: owner})
	if err != nil || b.Running || b.State != "ContainerCreating" {
		t.Errorf("bundle without a container: got %+v, %v, want one that is being created", b, err)
	}
}

func twoPods(t *testing.T, c *critest.Containerd) {
	owner, r := realOwner("22222222"), newRuntime(t, c, Options{})
	c.Place(t, owner)
	c.PlaceAs(t, owner, owner.ID()+"-2")
	_, err := r.Pod(t.Context(), owner)
	if !errors.Is(err, host.ErrConflict) || !strings.Contains(err.Error(), owner.ID()+"-2") {
		t.Errorf("got %v, want ErrConflict that names both", err)
	}
}

func bridgeRepaired(t *testing.T, c *critest.Containerd) {
	owner, r := realOwner("33333333"), newRuntime(t, c, Options{})
	c.Place(t, owner)
	want := testNetwork(owner)
	n := r.Networks()
	must(t, n.EnsureNetwork(t.Context(), want))
	inside := func(f func(l netlink.Link) error) {
		t.Helper()
		must(t, r.inPod(t.Context(), owner, func(Pod) error {
			l, err := netlink.LinkByName(owner.Bridge())
			if err != nil {
				return err
			}
			return f(l)
		}))
	}
	inside(func(l netlink.Link) error {
		a := l.Attrs()
		if a.HardwareAddr.String() != "02:42:c0:a8:21:02" || a.MTU != 1400 || l.Type() != "bridge" {
			t.Errorf("bridge: got %s %s MTU %d, want the bundle's MAC address and the MTU of eth0", l.Type(), a.HardwareAddr, a.MTU)
		}
		routes, err := netlink.RouteList(l, unix.AF_UNSPEC)
		if err == nil && (len(routes) != 1 || routes[0].Dst.String() != "192.168.33.3/32") {
			t.Errorf("routes over the bridge: got %v, want only that to the machine", routes)
		}
		return err
	})
	index := 0
	inside(func(l netlink.Link) error { index = l.Attrs().Index; return nil })
	for name, damage := range bridgeDamages() {
		inside(damage)
		if got, err := n.InspectNetwork(t.Context(), owner); err != nil || got.Gateway.IsValid() || got.Subnet != want.Subnet {
			t.Errorf("%s: got %+v, %v, want the subnet without a gateway", name, got, err)
		}
		if err := n.EnsureNetwork(t.Context(), want); err != nil {
			t.Errorf("%s: repair: %v", name, err)
		}
		if got, err := n.InspectNetwork(t.Context(), owner); err != nil || got != want {
			t.Errorf("%s: after the repair: got %+v, %v, want %+v", name, got, err, want)
		}
	}
	inside(func(l netlink.Link) error {
		if l.Attrs().Index != index {
			t.Error("the bridge was made again, want the same one repaired")
		}
		return nil
	})
}

// bridgeDamages are what makes a bridge other than it should be.
func bridgeDamages() map[string]func(l netlink.Link) error {
	sysctl := func(name, value string) func(netlink.Link) error {
		return func(l netlink.Link) error {
			return os.WriteFile("/proc/sys/net/"+name[:4]+"/conf/"+l.Attrs().Name+"/"+name[5:], []byte(value), 0)
		}
	}
	return map[string]func(l netlink.Link) error{
		"forwarding": sysctl("ipv4/forwarding", "1"),
		"all forwarding": func(netlink.Link) error {
			return errors.Join(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0), os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0))
		},
		"IPv6": sysctl("ipv6/disable_ipv6", "0"),
		"down": netlink.LinkSetDown,
		"no address": func(l netlink.Link) error {
			addrs, err := netlink.AddrList(l, unix.AF_INET)
			if err != nil {
				return err
			}
			return netlink.AddrDel(l, &addrs[0])
		},
		"another address": func(l netlink.Link) error {
			a, err := netlink.ParseAddr("192.168.33.9/24")
			if err != nil {
				return err
			}
			return netlink.AddrAdd(l, a)
		},
		"MAC": func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, []byte{2, 0, 0, 0, 0, 1}) },
		"MTU": func(l netlink.Link) error { return netlink.LinkSetMTU(l, 9000) },
	}
}

// bridgeUnfinished leaves what an agent leaves that ends while it makes a bridge.
func bridgeUnfinished(t *testing.T, c *critest.Containerd) {
	owner, r := realOwner("44444444"), newRuntime(t, c, Options{})
	c.Place(t, owner)
	must(t, r.inPod(t.Context(), owner, func(Pod) error {
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: unfinishedPrefix + owner.UID8()}})
	}))
	must(t, r.Networks().EnsureNetwork(t.Context(), testNetwork(owner)))
	got, err := r.Networks().InspectNetwork(t.Context(), owner)
	if err != nil || got != testNetwork(owner) {
		t.Errorf("got %+v, %v, want the network", got, err)
	}
}

func occupiedPrefixes(t *testing.T, c *critest.Containerd) {
	owner, r := realOwner("55555555"), newRuntime(t, c, Options{})
	c.Place(t, owner)
	must(t, r.Networks().EnsureNetwork(t.Context(), testNetwork(owner)))
	p, err := r.Pod(t.Context(), owner)
	must(t, err)
	got, err := r.Networks().OccupiedPrefixes(t.Context(), owner)
	want := []netip.Prefix{netip.PrefixFrom(p.IPs[0], 32), netip.MustParsePrefix("10.244.9.1/32")} // the proof takes the first
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func logOfRealContainer(t *testing.T, c *critest.Containerd) {
	owner, r := realOwner("66666666"), newRuntime(t, c, Options{})
	c.Place(t, owner)
	spec := host.BundleSpec{Owner: owner, Image: critest.ForeignImage}
	c.Run(t, spec)
	log := func(name string) { decide(t, c, owner, host.Decision{Verdict: host.VerdictDeny, Host: name, Port: 1}) }
	hosts, ended := make(chan string, 100), make(chan error, 1)
	follow := func(since time.Time) {
		go func() {
			ended <- r.Bundles().FollowDecisions(t.Context(), owner, since, func(d host.Decision) { hosts <- d.Host })
		}()
	}
	want := func(name string) {
		t.Helper()
		select {
		case got := <-hosts:
			if got != name {
				t.Fatalf("got a decision about %q, want %q", got, name)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("got no decision within 20 s, want %q", name)
		}
	}
	follow(time.Time{})
	log("first")
	want("first")
	must(t, os.Rename(filepath.Join(c.Logs(owner), "0.log"), filepath.Join(c.Logs(owner), "0.log.20260102-030405")))
	log("renamed")
	c.Reopen(t, owner)
	log("reopened")
	want("renamed")
	want("reopened")
	log("before-the-end")
	c.Exit(t, owner)
	want("before-the-end")
	if err := <-ended; err != nil {
		t.Errorf("container ended: got %v, want nil", err)
	}
	c.Run(t, spec)
	log("restarted")
	follow(time.Time{})
	for _, name := range []string{"first", "renamed", "reopened", "before-the-end", "restarted"} {
		want(name)
	}
	c.StopSandbox(t, owner)
	if err := <-ended; err != nil {
		t.Errorf("sandbox ended: got %v, want nil", err)
	}
}

func volumes(t *testing.T, c *critest.Containerd) {
	owner, r := realOwner("77777777"), newRuntime(t, c, Options{})
	c.Place(t, owner)
	rules, secrets, err := r.Bundles().Folders(t.Context(), owner)
	must(t, err)
	c.Run(t, host.BundleSpec{Owner: owner})
	must(t, os.WriteFile(filepath.Join(rules, "x"), []byte("rules"), 0o444))
	must(t, os.WriteFile(filepath.Join(secrets, "x"), []byte("secret"), 0o444))
	for path, want := range map[string]string{bundleimage.RulesDir: "rules", bundleimage.SecretsDir: "secret"} {
		got, err := r.Bundles().ReadFile(t.Context(), owner, path+"/x", 100)
		if err != nil || string(got) != want {
			t.Errorf("in the container: got %q, %v, want %q", got, err, want)
		}
	}
	// No secret may be written to what the folder becomes now.
	must(t, unix.Unmount(secrets, unix.MNT_DETACH))
	wantInvalid(t, r, owner, "on a disk")
	must(t, unix.Mount("tmpfs", secrets, "tmpfs", 0, "uid=1000"))
	wantInvalid(t, r, owner, "of another user")
	must(t, unix.Unmount(secrets, unix.MNT_DETACH))
	must(t, errors.Join(os.Remove(secrets), os.Symlink(rules, secrets)))
	wantInvalid(t, r, owner, "behind a link")
	must(t, os.Remove(secrets))
	if _, _, err := r.Bundles().Folders(t.Context(), owner); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("no folder: got %v, want ErrNotFound", err)
	}
}

func wantInvalid(t *testing.T, r *Runtime, owner host.Owner, what string) {
	t.Helper()
	if _, _, err := r.Bundles().Folders(t.Context(), owner); !errors.Is(err, host.ErrInvalid) {
		t.Errorf("folder %s: got %v, want ErrInvalid", what, err)
	}
}

func runtimeRestarted(t *testing.T, c *critest.Containerd) {
	owner, r := realOwner("88888888"), newRuntime(t, c, Options{})
	c.Place(t, owner)
	spec := host.BundleSpec{Owner: owner, Image: critest.ForeignImage}
	c.Run(t, spec)
	must(t, r.Networks().EnsureNetwork(t.Context(), testNetwork(owner)))
	before, err := r.Bundles().InspectBundle(t.Context(), owner)
	must(t, err)
	c.Kill(t)
	c.Restart(t)
	var after host.Bundle
	await.True(t, "the runtime is found again", func() bool {
		after, err = r.Bundles().InspectBundle(t.Context(), owner)
		return err == nil
	})
	if after != before || !after.Running {
		t.Errorf("got %+v, want the same bundle %+v", after, before)
	}
	if got, err := r.Networks().InspectNetwork(t.Context(), owner); err != nil || got != testNetwork(owner) {
		t.Errorf("network: got %+v, %v, want the same", got, err)
	}
}
