// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// BuiltInImage is the reference of the fake's built-in bundle image.
const BuiltInImage = "botbottle.dev/bundle:hosttest"

// Bundles is an in-memory fake of host.Bundles. It uses the networks of a
// Networks, and is up or down together with it. A call is recorded as its method
// and the owner's ID, such as "EnsureBundle bottle-demo-1a2b3c4d".
type Bundles struct {
	*Faults
	networks *Networks
	// The lock of networks guards all fields below, because both fakes stand for
	// the same docker.
	containers map[string]*container // by name
	images     map[string][]int32    // by reference: the ports on which a container listens
	silent     map[netip.AddrPort]bool
	files      map[string]file // by the owner's ID and path
	created    int
	now        func() time.Time
	folders    func(owner host.Owner) (rules, secrets string, err error)

	decisions notifying // notified of every decision
}

type container struct {
	bundle    host.Bundle
	spec      host.BundleSpec
	decisions []host.Decision // the latest ones
	decided   int             // the number of all decisions so far
	lines     []host.BundleLogLine
	down      bool // stays down in the next call of EnsureBundle
}

var _ host.Bundles = (*Bundles)(nil)

// NewBundles returns a fake node without bundles. It has the built-in image,
// which listens on 8888. It shares the faults of networks.
func NewBundles(networks *Networks) *Bundles {
	return &Bundles{
		Faults:     networks.Faults,
		networks:   networks,
		containers: map[string]*container{},
		images:     map[string][]int32{BuiltInImage: {8888}},
		silent:     map[netip.AddrPort]bool{},
		files:      map[string]file{},
		now:        time.Now,
		folders:    func(host.Owner) (string, string, error) { return "", "", host.ErrNotFound },
	}
}

// SetClock sets the clock for the times of starts. The default is time.Now.
func (f *Bundles) SetClock(now func() time.Time) { f.locked(func() { f.now = now }) }

// AddImage adds an image to the node. Its containers listen on the ports.
func (f *Bundles) AddImage(reference string, ports ...int32) {
	f.locked(func() { f.images[reference] = ports })
}

// RemoveImage removes an image from the node.
func (f *Bundles) RemoveImage(reference string) {
	f.locked(func() { delete(f.images, reference) })
}

// PutAs adds a running container with any name, without recording a call. If b
// has no owner, the container has none of our labels.
func (f *Bundles) PutAs(name string, b host.Bundle) {
	f.locked(func() {
		f.created++
		b.ContainerID, b.Running, b.State = containerID(f.created), true, "running"
		f.containers[name] = &container{bundle: b}
	})
	f.networks.watchers.notifyOwner(b.Owner)
}

// Exit makes the owner's container end by itself.
func (f *Bundles) Exit(owner host.Owner, code int) {
	f.locked(func() {
		if c := f.containers[owner.ID()]; c != nil {
			c.bundle.Running, c.bundle.State = false, fmt.Sprintf("exited (%d)", code)
		}
	})
	f.networks.watchers.notifyOwner(owner)
}

// RunOutOfMemory makes the owner's container end because it exceeded its memory
// limit. Unlike the real adapter, the fake starts it again at the second call of
// EnsureBundle from now.
func (f *Bundles) RunOutOfMemory(owner host.Owner) {
	f.locked(func() {
		if c := f.containers[owner.ID()]; c != nil {
			c.bundle.Running, c.bundle.State, c.bundle.OutOfMemory = false, "exited (137)", true
			c.down = true
		}
	})
	f.networks.watchers.notifyOwner(owner)
}

// Remove removes a container without the agent knowing.
func (f *Bundles) Remove(owner host.Owner) {
	f.locked(func() { delete(f.containers, owner.ID()) })
	f.networks.watchers.notifyOwner(owner)
}

// Silence makes a port at an address stop answering, or answer again.
func (f *Bundles) Silence(ip netip.Addr, port int32, when Answering) {
	f.locked(func() {
		if when == Silent {
			f.silent[netip.AddrPortFrom(ip, uint16(port))] = true
			return
		}
		delete(f.silent, netip.AddrPortFrom(ip, uint16(port)))
	})
}

// Answering says whether a port of a running container answers.
type Answering int

// The values of Answering.
const (
	Answers Answering = iota
	Silent
)

// Spec returns the spec from which the owner's container was created.
func (f *Bundles) Spec(owner host.Owner) (spec host.BundleSpec, ok bool) {
	f.locked(func() {
		if c := f.containers[owner.ID()]; c != nil {
			spec, ok = c.spec, true
		}
	})
	return spec, ok
}

// All returns the containers by name.
func (f *Bundles) All() map[string]host.Bundle {
	out := map[string]host.Bundle{}
	f.locked(func() {
		for name, c := range f.containers {
			out[name] = c.bundle
		}
	})
	return out
}

// InspectBundle implements host.Bundles.
func (f *Bundles) InspectBundle(ctx context.Context, owner host.Owner) (out host.Bundle, err error) {
	err = f.networks.call(ctx, "InspectBundle "+owner.ID(), func() error {
		c, err := f.find(owner)
		if err != nil {
			return err
		}
		out = c.bundle
		return nil
	})
	return zeroOnError(out, err)
}

// EnsureBundle implements host.Bundles.
func (f *Bundles) EnsureBundle(ctx context.Context, spec host.BundleSpec) (out host.Bundle, err error) {
	changed := false
	ensure := func() error {
		out, changed, err = f.ensure(spec)
		return err
	}
	// Half way, the container is created but not started.
	err = f.networks.callSteps(ctx, "EnsureBundle "+spec.Owner.ID(), steps{whole: ensure, half: func() error {
		if err := ensure(); err != nil {
			return err
		}
		c := f.containers[spec.Owner.ID()]
		c.bundle.Running, c.bundle.State = false, "created"
		return nil
	}})
	if changed {
		f.networks.watchers.Notify(spec.Owner.UID)
	}
	return zeroOnError(out, err)
}

func (f *Bundles) ensure(spec host.BundleSpec) (out host.Bundle, changed bool, err error) {
	for i, entry := range spec.Env {
		if name, _, ok := strings.Cut(entry, "="); !ok || name == "" || strings.ContainsRune(entry, 0) {
			return out, false, fmt.Errorf("env entry %d: %w", i, host.ErrInvalid)
		}
	}
	id := spec.Owner.ID()
	if c := f.containers[id]; c != nil {
		if !spec.Owner.Same(c.bundle.Owner) {
			return out, false, fmt.Errorf("container %q: %w", id, host.ErrConflict)
		}
		same := c.spec
		same.Limits = spec.Limits
		if reflect.DeepEqual(same, spec) {
			c.spec.Limits = spec.Limits
			if c.down {
				c.down = false
				return c.bundle, false, nil
			}
			c.bundle.OutOfMemory = false
			if changed = !c.bundle.Running; changed {
				c.bundle.StartedAt = f.now()
			}
			c.bundle.Running, c.bundle.State = true, "running"
			return c.bundle, changed, nil
		}
		// As in docker, the old container is removed first.
		delete(f.containers, id)
	}
	image := spec.Image
	if image == "" {
		image = BuiltInImage
	}
	if _, ok := f.images[image]; !ok {
		return out, true, fmt.Errorf("image %q: %w", image, host.ErrNotFound)
	}
	n, ok := f.networks.networks[id]
	if !ok || !spec.Owner.Same(n.Owner) || !n.Subnet.Contains(spec.IP) {
		return out, true, fmt.Errorf("container %q: no network with %s", id, spec.IP)
	}
	f.created++
	spec.Env = slices.Clone(spec.Env)
	c := &container{spec: spec, bundle: host.Bundle{
		Owner: spec.Owner, ContainerID: containerID(f.created), Image: image, IP: spec.IP, Running: true, State: "running", StartedAt: f.now(),
	}}
	f.containers[id] = c
	return c.bundle, true, nil
}

// StopBundle implements host.Bundles.
func (f *Bundles) StopBundle(ctx context.Context, owner host.Owner) error {
	return f.change(ctx, "StopBundle", owner, func(c *container) {
		c.bundle.Running, c.bundle.State = false, "exited (0)"
	})
}

// DeleteBundle implements host.Bundles.
func (f *Bundles) DeleteBundle(ctx context.Context, owner host.Owner) error {
	return f.change(ctx, "DeleteBundle", owner, func(*container) { delete(f.containers, owner.ID()) })
}

// change calls do with the owner's container if there is one.
func (f *Bundles) change(ctx context.Context, call string, owner host.Owner, do func(*container)) error {
	changed := false
	err := f.networks.call(ctx, call+" "+owner.ID(), func() error {
		if c, err := f.find(owner); err == nil {
			changed = true
			do(c)
		}
		return nil
	})
	if changed {
		f.networks.watchers.notifyOwner(owner)
	}
	return err
}

// ListBundles implements host.Bundles.
func (f *Bundles) ListBundles(ctx context.Context) (out []host.Bundle, err error) {
	err = f.networks.call(ctx, "ListBundles", func() error {
		for _, name := range slices.Sorted(maps.Keys(f.containers)) {
			if c := f.containers[name]; c.bundle.Owner.UID != "" {
				b := c.bundle
				b.StartedAt = time.Time{}
				out = append(out, b)
			}
		}
		return nil
	})
	return zeroOnError(out, err)
}

// UnansweredPorts implements host.Bundles. It also works while docker is down,
// because ports are dialled without docker.
func (f *Bundles) UnansweredPorts(ctx context.Context, owner host.Owner, ip netip.Addr, ports []int32) (out []int32, err error) {
	err = f.around("UnansweredPorts "+owner.ID(), func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		f.locked(func() {
			for _, port := range ports {
				if !f.listens(ip, port) {
					out = append(out, port)
				}
			}
		})
		return nil
	})
	return zeroOnError(out, err)
}

func (f *Bundles) listens(ip netip.Addr, port int32) bool {
	for _, c := range f.containers {
		if c.bundle.IP == ip && c.bundle.Running && slices.Contains(f.images[c.bundle.Image], port) {
			return !f.silent[netip.AddrPortFrom(ip, uint16(port))]
		}
	}
	return false
}

// WatchBundles implements host.Bundles.
func (f *Bundles) WatchBundles(ctx context.Context, changed func(uid string)) error {
	return f.around("WatchBundles", func() error {
		remove := f.networks.watchers.Add(changed)
		defer remove()
		<-ctx.Done()
		return ctx.Err()
	})
}

func (f *Bundles) find(owner host.Owner) (*container, error) {
	c := f.containers[owner.ID()]
	switch {
	case c == nil:
		return nil, fmt.Errorf("container %q: %w", owner.ID(), host.ErrNotFound)
	case !owner.Same(c.bundle.Owner):
		return nil, fmt.Errorf("container %q: %w", owner.ID(), host.ErrConflict)
	}
	return c, nil
}

func (f *Bundles) locked(do func()) {
	f.networks.mu.Lock()
	defer f.networks.mu.Unlock()
	do()
}

func containerID(n int) string { return "container-" + strconv.Itoa(n) }
