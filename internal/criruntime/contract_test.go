// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/criruntime/critest"
	"botbottle.dev/bottle-operator/internal/docker/dockertest"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
)

func TestMain(m *testing.M) { dockertest.Main(m) }

func TestNetworksContract(t *testing.T) {
	c := critest.Start(t)
	hostcontract.TestPodNetworks(t, func(t *testing.T) hostcontract.NetworksFixture {
		c.Restart(t)
		return networksFixture(t, c, newRuntime(t, c, Options{Node: "node-1"}))
	})
}

func TestBundlesContract(t *testing.T) {
	c := critest.Start(t)
	hostcontract.TestPodBundles(t, func(t *testing.T) hostcontract.BundlesFixture {
		c.Restart(t)
		r := newRuntime(t, c, Options{Cluster: "cluster-1", Node: "node-1"})
		return hostcontract.BundlesFixture{
			NetworksFixture: networksFixture(t, c, r),
			Bundles:         r.Bundles(),
			Image:           critest.ForeignImage,
			Run:             func(t *testing.T, spec host.BundleSpec) { c.Run(t, spec) },
			Containers:      func(t *testing.T) []string { return c.Running(t) },
			Exit:            func(t *testing.T, owner host.Owner) { c.Exit(t, owner) },
			Decide:          func(t *testing.T, owner host.Owner, d host.Decision) { decide(t, c, owner, d) },
			PutFile: func(t *testing.T, owner host.Owner, path string, data []byte) {
				put(t, c, owner, path, func(at string) error { return os.WriteFile(at, data, 0o600) })
			},
			PutLink: func(t *testing.T, owner host.Owner, path, target string) {
				put(t, c, owner, path, func(at string) error { return os.Symlink(target, at) })
			},
		}
	})
}

// newRuntime returns a Runtime that follows the events of containerd.
func newRuntime(t *testing.T, c *critest.Containerd, o Options) *Runtime {
	t.Helper()
	o.Sockets, o.KubeletDir = []string{c.Socket}, c.KubeletDir
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.silence = 2 * time.Second // the suite waits for the report that the runtime is down
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, r.Close()); err != nil {
			t.Error(err)
		}
	})
	return r
}

func networksFixture(t *testing.T, c *critest.Containerd, r *Runtime) hostcontract.NetworksFixture {
	t.Helper()
	var placed []host.Owner
	return hostcontract.NetworksFixture{
		Networks: r.Networks(),
		Place: func(t *testing.T, owner host.Owner) {
			c.Place(t, owner)
			placed = append(placed, owner)
		},
		Put: func(t *testing.T, name string, n host.Network) {
			for _, o := range placed {
				if o.ID() == name {
					putBridge(t, r, o, n)
				}
			}
		},
		Names: func(t *testing.T) (names []string) {
			for _, o := range placed {
				err := r.inPod(t.Context(), o, func(Pod) error {
					_, err := netlink.LinkByName(o.Bridge())
					return err
				})
				if err == nil {
					names = append(names, o.ID())
				}
			}
			return names
		},
		Down: func(t *testing.T) {
			c.Kill(t)
			r.cache.drop("") // as the loss of the events does, soon
		},
		Up: func(t *testing.T) { c.Restart(t) },
	}
}

// putBridge makes a bridge in the Pod of owner, with the mark of n's owner or none.
func putBridge(t *testing.T, r *Runtime, owner host.Owner, n host.Network) {
	t.Helper()
	err := r.inPod(t.Context(), owner, func(Pod) error {
		link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: owner.Bridge()}}
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		if n.Owner.UID == "" {
			return nil
		}
		return netlink.LinkSetAlias(link, markOf(n))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// decide writes a decision to the output of the container's first process, among lines that
// are not decisions.
func decide(t *testing.T, c *critest.Containerd, owner host.Owner, d host.Decision) {
	t.Helper()
	line, err := json.Marshal(map[string]any{"decision": d.Verdict, "host": d.Host, "port": d.Port, "reason": d.Reason, "cause": d.Cause, "address": d.Address, "leftOut": d.LeftOut})
	if err != nil {
		t.Fatal(err)
	}
	say(t, c, owner, "no decision\n{\"event\":\"rules\"}\n"+strings.Repeat("long", 10_000)+"\n"+string(line)+"\n")
}

// say writes to the output of the container's first process.
func say(t *testing.T, c *critest.Containerd, owner host.Owner, text string) {
	t.Helper()
	out, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", c.PID(t, owner)), os.O_WRONLY, 0)
	if err == nil {
		_, err = out.WriteString(text)
		err = errors.Join(err, out.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// put makes a file in the running container.
func put(t *testing.T, c *critest.Containerd, owner host.Owner, path string, at func(string) error) {
	t.Helper()
	full := fmt.Sprintf("/proc/%d/root%s", c.PID(t, owner), path)
	err := os.MkdirAll(filepath.Dir(full), 0o755)
	if err == nil {
		if err = at(full); errors.Is(err, unix.EEXIST) {
			err = nil
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}
