// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/ownthread"
)

// podNS is what is known of a Pod's network namespace.
type podNS struct {
	path string
	id   host.NetNS
	err  error
}

const (
	// lookupLimit is how long Namespace may take to answer.
	lookupLimit = 5 * time.Second
	// inspectionLimit is the same for InspectWalls, in which one Pod must not delay what is
	// found out about the others.
	inspectionLimit = 500 * time.Millisecond
)

// errLookup marks every error of a lookup.
var errLookup = errors.New("look up the Pod")

// lookup asks which network namespace the owner's Pod has.
func (p *PodWalls) lookup(ctx context.Context, owner host.Owner, limit time.Duration) podNS {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var found podNS
	found.path, found.id, found.err = p.namespace(limited, owner)
	switch {
	case found.err != nil && limited.Err() != nil && ctx.Err() == nil:
		found.err = fmt.Errorf("%w: no answer within %s: %w: %w", errLookup, limit, host.ErrUnavailable, found.err)
	case found.err != nil:
		found.err = fmt.Errorf("%w: %w", errLookup, found.err)
	}
	return found
}

// lookupAll looks up the Pods of all specs at the same time, for InspectWalls.
func (p *PodWalls) lookupAll(ctx context.Context, specs []host.WallSpec) []podNS {
	found := make([]podNS, len(specs))
	var calls sync.WaitGroup
	for i, s := range specs {
		calls.Go(func() { found[i] = p.lookup(ctx, s.Owner, inspectionLimit) })
	}
	calls.Wait()
	return found
}

// errNodesNetwork means that a Pod is in the network namespace of the node.
var errNodesNetwork = fmt.Errorf("the Pod is in the node's own network namespace: %w", host.ErrConflict)

// open opens a Pod's network namespace. The error is ErrNotFound if it is no longer the
// one that was found. home is a handle in the network namespace of this process. The
// caller must close the file soon, because it keeps the namespace alive.
func (p *PodWalls) open(found podNS, home *netlink.Handle) (*os.File, error) {
	if found.err != nil {
		return nil, found.err
	}
	own, err := processNetNS()
	if err != nil {
		return nil, err
	}
	if found.id == own {
		return nil, errNodesNetwork
	}
	// The container runtime may name a link below /proc, so links are followed.
	ns, _, id, err := openAny(found.path, 0)
	if err != nil {
		return nil, err
	}
	if ns == nil || id != found.id {
		if ns != nil {
			ns.Close()
		}
		return nil, fmt.Errorf("the Pod's network namespace %s has been replaced: %w", found.path, host.ErrNotFound)
	}
	if err := p.announce(ns, home); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// announce gives a Pod's network namespace an ID in the network namespace of this process.
// From then on, sockets here receive the notifications of that namespace: see WatchWalls. The
// ID does not keep the namespace alive.
func (p *PodWalls) announce(ns *os.File, home *netlink.Handle) error {
	id, err := idOf(ns, home)
	if err != nil {
		return err
	}
	p.ids.add(id)
	return nil
}

// idOf returns the ID of a network namespace in the network namespace of a handle. If it has
// none, idOf gives it one.
func idOf(ns *os.File, home *netlink.Handle) (int, error) {
	id, err := home.GetNetNsIdByFd(int(ns.Fd()))
	if err == nil && id < 0 {
		if err = home.SetNetNsIdByFd(int(ns.Fd()), -1); err == nil || errors.Is(err, unix.EEXIST) {
			id, err = home.GetNetNsIdByFd(int(ns.Fd()))
		}
	}
	if err == nil && id < 0 {
		err = errors.New("the kernel assigned none")
	}
	if err != nil {
		return -1, fmt.Errorf("ID of network namespace %s: %w", ns.Name(), err)
	}
	return id, nil
}

// inside runs f on a thread in a network namespace.
func inside(ns *os.File, f func() error) error {
	return ownthread.Run(func() error {
		if err := enter(ns); err != nil {
			return err
		}
		return f()
	})
}

// enter moves the calling thread into a network namespace for good.
func enter(ns *os.File) error {
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", ns.Name(), err)
	}
	return nil
}

// idSet holds the IDs of the Pods' network namespaces. IDs are never removed. The kernel reuses
// the ID of a namespace that has ended, so the set is no larger than the most Pods at a time.
type idSet struct {
	mu  sync.Mutex
	ids map[int]bool
}

func (s *idSet) add(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ids == nil {
		s.ids = map[int]bool{}
	}
	s.ids[id] = true
}

func (s *idSet) has(id int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ids[id]
}
