// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/netns"
)

// dialTimeout is how long a port may take to answer. It is short because the bundle is in
// the same network namespace.
const dialTimeout = time.Second

// Bundles implements host.Bundles with the container of each Bottle's Pod. No method
// creates, starts or changes a container: the manager describes it, and the kubelet creates,
// starts and restarts it. While no Pod of the Bottle runs, there is no container.
type Bundles struct{ r *Runtime }

// InspectBundle implements host.Bundles.
func (b *Bundles) InspectBundle(ctx context.Context, owner host.Owner) (host.Bundle, error) {
	c, err := b.r.findContainer(ctx, owner)
	if err != nil {
		return host.Bundle{}, err
	}
	n, err := b.r.networkOf(ctx, owner)
	if err != nil {
		return host.Bundle{}, err
	}
	return c.bundle(owner, n), nil
}

// EnsureBundle implements host.Bundles. It only observes. It returns ErrNotFound when no
// Pod of the Bottle runs; while the Pod has no container yet, the bundle's state says so.
func (b *Bundles) EnsureBundle(ctx context.Context, spec host.BundleSpec) (host.Bundle, error) {
	out, err := b.InspectBundle(ctx, spec.Owner)
	if errors.Is(err, errNoContainer) {
		return host.Bundle{Owner: spec.Owner, IP: spec.IP, State: "ContainerCreating"}, nil
	}
	return out, err
}

// StopBundle implements host.Bundles. It does nothing: the kubelet would start the
// container again. The container ends with its Pod.
func (b *Bundles) StopBundle(context.Context, host.Owner) error { return nil }

// DeleteBundle implements host.Bundles. It kills the container without a grace period. The
// kubelet then removes the container, and starts a new one unless the Pod is being deleted.
func (b *Bundles) DeleteBundle(ctx context.Context, owner host.Owner) error {
	pod, err := b.r.Pod(ctx, owner)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := b.r.containers(ctx, pod.SandboxID)
	if err != nil {
		return err
	}
	for _, c := range all {
		if c.State != cri.ContainerState_CONTAINER_EXITED {
			if err := b.r.stopContainer(ctx, c.Id); err != nil {
				return err
			}
		}
	}
	return nil
}

// ListBundles implements host.Bundles. It leaves out the bundles of Pods that end meanwhile.
func (b *Bundles) ListBundles(ctx context.Context) ([]host.Bundle, error) {
	pods, err := b.r.Pods(ctx)
	if err != nil {
		return nil, err
	}
	var out []host.Bundle
	for _, p := range pods {
		if !p.Ready {
			continue
		}
		found, err := b.InspectBundle(ctx, p.Owner)
		if absent(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found.OutOfMemory, found.StartedAt = false, time.Time{}
		out = append(out, found)
	}
	return out, nil
}

// UnansweredPorts implements host.Bundles. It dials from inside the Pod, where the wall's
// filter does not apply. If no Pod runs, no port answers.
func (b *Bundles) UnansweredPorts(ctx context.Context, owner host.Owner, ip netip.Addr, ports []int32) ([]int32, error) {
	pod, err := b.r.Pod(ctx, owner)
	if err != nil && !absent(err) {
		return nil, err
	}
	gone := err != nil
	silent := make([]bool, len(ports))
	var wg sync.WaitGroup
	for i, port := range ports {
		wg.Go(func() { silent[i] = gone || !answers(ctx, pod, netip.AddrPortFrom(ip, uint16(port))) })
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out []int32
	for i, port := range ports {
		if silent[i] {
			out = append(out, port)
		}
	}
	return out, nil
}

// answers dials from the Pod's namespace. The dialer makes the socket for a single address
// on the calling thread.
func answers(ctx context.Context, pod Pod, at netip.AddrPort) bool {
	err := netns.Do(pod.NetNS, pod.NetNSID, func() error {
		dialer := net.Dialer{Timeout: dialTimeout}
		conn, err := dialer.DialContext(ctx, "tcp4", at.Addr().String()+":"+strconv.Itoa(int(at.Port())))
		if err != nil {
			return err
		}
		conn.Close()
		return nil
	})
	return err == nil
}

// WatchBundles implements host.Bundles. Run must be running. It also calls changed with ""
// when the stream of events is open again. It does not report changes of a bridge: the
// watch of the walls does.
func (b *Bundles) WatchBundles(ctx context.Context, changed func(uid string)) error {
	remove := b.r.watchers.Add(changed)
	defer remove()
	<-ctx.Done()
	return ctx.Err()
}
