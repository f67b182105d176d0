// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/state"
)

// Kind is a runtime of bundles.
type Kind string

// The runtimes. The values are those of the agent's flag, and are stored.
const (
	// Docker: the bundle is a container of the node's Docker Engine.
	Docker Kind = "docker"
	// Pod: the bundle is the container of the Bottle's placeholder Pod.
	Pod Kind = "pod"
)

// Choices knows the runtime of each Bottle. A Bottle keeps the one with which it came to
// the node.
type Choices struct {
	dir *state.Dir
	// ofNode returns the runtime of new Bottles. It returns ErrUnavailable while that
	// cannot be found out.
	ofNode func(ctx context.Context) (Kind, error)

	mu    sync.Mutex
	known map[string]Kind // by UID
}

// NewChoices returns the choices that the state directory records. ofNode returns the
// runtime of new Bottles; it is not called before Choose is.
func NewChoices(dir *state.Dir, ofNode func(ctx context.Context) (Kind, error)) (*Choices, error) {
	c := &Choices{dir: dir, ofNode: ofNode, known: map[string]Kind{}}
	owners, err := dir.Owners()
	if err != nil {
		return nil, err
	}
	for _, owner := range owners {
		// An unreadable choice is reported whenever somebody acts on this Bottle.
		_, _ = c.Of(owner.UID)
	}
	return c, nil
}

// Of returns the runtime of a Bottle; "" if none was chosen yet. Agents of releases without
// the runtime Pod recorded no choice: a Bottle with files of theirs has the runtime Docker.
func (c *Choices) Of(uid string) (Kind, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of(uid)
}

// OfBottle is Of for a Bottle whose status may know more: an agent that knew only docker
// made the network that it names.
func (c *Choices) OfBottle(b *v1alpha1.Bottle) (Kind, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kind, err := c.of(string(b.UID))
	if err == nil && kind == "" && b.Status.Network != nil && !inPod(b) {
		kind = Docker
		c.known[string(b.UID)] = kind
	}
	return kind, err
}

func (c *Choices) of(uid string) (Kind, error) {
	if kind, ok := c.known[uid]; ok {
		return kind, nil
	}
	folder, err := c.dir.Folder(uid)
	if err != nil {
		return "", err
	}
	text, err := folder.Runtime()
	kind := Kind(text)
	switch {
	case err != nil:
		return "", err
	case kind == "" && folder.Used():
		kind = Docker
	case kind == "":
		return "", nil
	case kind != Docker && kind != Pod:
		return "", fmt.Errorf("bottle %s: unknown runtime %q of its bundle in %s", uid, text, folder.Path())
	}
	c.known[uid] = kind
	return kind, nil
}

// Choose returns the runtime of a Bottle whose folder exists, and chooses it if that is
// not done yet. It returns ErrUnavailable while the runtime of the node is not known.
func (c *Choices) Choose(ctx context.Context, b *v1alpha1.Bottle) (Kind, error) {
	uid := string(b.UID)
	kind, err := c.OfBottle(b)
	if err != nil {
		return "", err
	}
	if kind == "" {
		if kind, err = c.ofNode(ctx); err != nil {
			return "", err
		}
	}
	folder, err := c.dir.Folder(uid)
	if err == nil {
		err = folder.WriteRuntime(string(kind))
	}
	if err != nil {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[uid] = kind
	return kind, nil
}

// Forget drops what is known about a Bottle that has left the node.
func (c *Choices) Forget(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, uid)
}

// Uses reports whether a Bottle of the node has this runtime.
func (c *Choices) Uses(kind Kind) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.known {
		if k == kind {
			return true
		}
	}
	return false
}

// inPod reports whether an earlier agent reported that the bundle runs in a Pod.
func inPod(b *v1alpha1.Bottle) bool {
	return b.Status.Bundle != nil && ptr.Deref(b.Status.Bundle.Runtime, "") == v1alpha1.BundleRuntimePod
}

// Reported returns the runtime as the status names it.
func (k Kind) Reported() v1alpha1.BundleRuntime {
	if k == Pod {
		return v1alpha1.BundleRuntimePod
	}
	return v1alpha1.BundleRuntimeDocker
}
