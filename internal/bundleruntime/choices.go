// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"fmt"
	"sync"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
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

	mu        sync.Mutex
	known     map[string]Kind // by UID
	forgotten int             // counts the calls of Forget
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
	kind, known := c.known[uid]
	forgotten := c.forgotten
	c.mu.Unlock()
	if known {
		return kind, nil
	}
	// Nobody else waits for the disk.
	kind, err := c.read(uid)
	if err != nil || kind == "" {
		return "", err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if chosen, known := c.known[uid]; known { // meanwhile
		return chosen, nil
	}
	if c.forgotten == forgotten { // or else it may be this Bottle that has left
		c.known[uid] = kind
	}
	return kind, nil
}

// OfBottle is like Of, but also looks at the status, which shows whether an agent has made a
// bundle with docker.
func (c *Choices) OfBottle(b *v1alpha1.Bottle) (Kind, error) {
	kind, err := c.Of(string(b.UID))
	if err == nil && kind == "" && desired.BundleRuntime(b) == v1alpha1.BundleRuntimeDocker {
		kind = Docker
		c.mu.Lock()
		defer c.mu.Unlock()
		c.known[string(b.UID)] = kind // docker is in use, whatever new Bottles get
	}
	return kind, err
}

// read returns the runtime that the Bottle's folder records, "" for none.
func (c *Choices) read(uid string) (Kind, error) {
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
		return Docker, nil
	case kind != "" && kind != Docker && kind != Pod:
		return "", fmt.Errorf("bottle %s: unknown runtime %q of its bundle in %s", uid, text, folder.Path())
	}
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
	c.forgotten++
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

// Reported returns the runtime as the status names it.
func (k Kind) Reported() v1alpha1.BundleRuntime {
	if k == Pod {
		return v1alpha1.BundleRuntimePod
	}
	return v1alpha1.BundleRuntimeDocker
}
