// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/vishvananda/netlink"

	"botbottle.dev/bottle-operator/internal/docker/dockertest"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
)

func TestMain(m *testing.M) { dockertest.Main(m) }

func TestNetworksContract(t *testing.T) {
	d := dockertest.Start(t)
	hostcontract.TestNetworks(t, func(t *testing.T) hostcontract.NetworksFixture {
		d.Restart(t)
		return networksFixture(t, d, newEngine(t, d))
	})
}

func TestBundlesContract(t *testing.T) {
	d := dockertest.Start(t)
	d.LoadForeign(t)
	executable := dockertest.BuildBundle(t)
	hostcontract.TestBundles(t, func(t *testing.T) hostcontract.BundlesFixture {
		d.Restart(t)
		e := newEngine(t, d)
		rules, secrets := t.TempDir(), t.TempDir()
		e.folders = func(context.Context, host.Owner) (string, string, error) { return rules, secrets, nil }
		if _, err := e.LoadBundleImage(t.Context(), executable); err != nil {
			t.Fatal(err)
		}
		c := d.Client(t)
		return hostcontract.BundlesFixture{
			NetworksFixture: networksFixture(t, d, e),
			Bundles:         e,
			Image:           dockertest.ForeignImage,
			RulesDir:        t.TempDir(),
			PutContainer:    func(t *testing.T, name string, owner host.Owner) { putContainer(t, c, name, owner) },
			Containers:      func(t *testing.T) []string { return containerNames(t, c) },
			Exit: func(t *testing.T, owner host.Owner) {
				t.Helper()
				if _, err := c.ContainerKill(t.Context(), owner.ID(), client.ContainerKillOptions{Signal: "KILL"}); err != nil {
					t.Fatal(err)
				}
			},
			Env:    func(t *testing.T, owner host.Owner) []string { return environOf(t, c, owner.ID()) },
			Decide: func(t *testing.T, owner host.Owner, d host.Decision) { logDecision(t, c, owner, d) },
			PutFile: func(t *testing.T, owner host.Owner, path string, data []byte) {
				putFile(t, c, owner, tarFile(path, data))
			},
			PutLink: func(t *testing.T, owner host.Owner, path, target string) { putFile(t, c, owner, tarLink(path, target)) },
		}
	})
}

func newEngine(t *testing.T, d *dockertest.Daemon) *Engine {
	t.Helper()
	e, err := New(Options{Host: d.Host})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func networksFixture(t *testing.T, d *dockertest.Daemon, e *Engine) hostcontract.NetworksFixture {
	t.Helper()
	c := d.Client(t)
	return hostcontract.NetworksFixture{
		Networks: e,
		Put:      func(t *testing.T, name string, n host.Network) { putNetwork(t, c, name, n) },
		Occupy:   addRoute,
		Names: func(t *testing.T) []string {
			t.Helper()
			all, err := c.NetworkList(t.Context(), client.NetworkListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, n := range all.Items {
				names = append(names, n.Name)
			}
			return names
		},
		Down: func(t *testing.T) { d.Kill(t) },
	}
}

// putNetwork creates a network as somebody else would.
func putNetwork(t *testing.T, c *client.Client, name string, n host.Network) {
	t.Helper()
	options := client.NetworkCreateOptions{
		Driver: "bridge",
		IPAM:   &network.IPAM{Config: []network.IPAMConfig{{Subnet: n.Subnet, Gateway: n.Gateway}}},
	}
	if n.Owner.UID != "" {
		options.Labels = labelsOf(n.Owner)
	}
	made, err := c.NetworkCreate(t.Context(), name, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.NetworkRemove(background(t), made.ID, client.NetworkRemoveOptions{}); err != nil {
			t.Errorf("remove network %s: %v", name, err)
		}
	})
}

// addRoute adds a route over a link that leads nowhere, and default routes over
// the same link, which must not count.
func addRoute(t *testing.T, prefix netip.Prefix) {
	t.Helper()
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []netip.Prefix{prefix, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("128.0.0.0/1")} {
		dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
		// Use a separate table, as a VPN does.
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Dst: dst, Table: 77, Scope: netlink.SCOPE_LINK}); err != nil {
			t.Fatalf("add route %s: %v", p, err)
		}
	}
}

// putContainer creates a container, without starting it, as somebody else would.
func putContainer(t *testing.T, c *client.Client, name string, owner host.Owner) {
	t.Helper()
	options := client.ContainerCreateOptions{Name: name, Config: &container.Config{Image: dockertest.ForeignImage}}
	if owner.UID != "" {
		options.Config.Labels = labelsOf(owner)
	}
	made, err := c.ContainerCreate(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := c.ContainerRemove(background(t), made.ID, client.ContainerRemoveOptions{Force: true})
		if err != nil && !client.IsErrConnectionFailed(err) {
			t.Errorf("remove container %s: %v", name, err)
		}
	})
}

func containerNames(t *testing.T, c *client.Client) []string {
	t.Helper()
	all, err := c.ContainerList(t.Context(), client.ContainerListOptions{All: true})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, item := range all.Items {
		for _, name := range item.Names {
			names = append(names, strings.TrimPrefix(name, "/"))
		}
	}
	return names
}

// environOf reads the environment of the container's first process.
func environOf(t *testing.T, c *client.Client, name string) []string {
	t.Helper()
	out, err := c.ContainerInspect(t.Context(), name, client.ContainerInspectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", out.Container.State.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(string(b), "\x00"), func(s string) bool { return s == "" })
}
