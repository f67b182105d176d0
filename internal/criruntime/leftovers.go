// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"sync"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// leftovers holds the owners whose Pods may have lost their sandbox, so that the bundle of
// that sandbox still runs.
type leftovers struct {
	mu   sync.Mutex
	uids map[string]bool // "" means all
	wake chan struct{}
}

func (l *leftovers) init() { l.uids, l.wake = map[string]bool{}, make(chan struct{}, 1) }

func (l *leftovers) add(uid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uids[uid] = true
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take empties the set, and returns what was in it.
func (l *leftovers) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	if l.uids[""] {
		out = append(out, "")
	} else {
		for uid := range l.uids {
			out = append(out, uid)
		}
	}
	clear(l.uids)
	return out
}

// endLeftovers ends the bundles of lost sandboxes, until ctx ends. The kubelet makes no new
// sandbox before they have ended: it sends them SIGTERM, which the built-in bundle ignores
// because it must outlive its guest, and kills them after the Pod's grace period. An error is
// not reported, because that still happens.
func (r *Runtime) endLeftovers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.left.wake:
		}
		for _, uid := range r.left.take() {
			_ = r.endLeftoversOf(ctx, uid)
		}
	}
}

// endLeftoversOf ends the bundles of an owner's lost sandboxes; "" means of all owners'.
func (r *Runtime) endLeftoversOf(ctx context.Context, uid string) error {
	var labels map[string]string
	if uid != "" {
		labels = map[string]string{v1alpha1.LabelUID: uid}
	}
	sandboxes, err := r.sandboxes(ctx, labels)
	if err != nil {
		return err
	}
	lost := map[string]bool{}
	for _, s := range sandboxes {
		if _, ours := r.ownerOf(s); ours && s.State != cri.PodSandboxState_SANDBOX_READY {
			lost[s.Id] = true
		}
	}
	if len(lost) == 0 {
		return nil
	}
	containers, err := r.containers(ctx, "")
	if err != nil {
		return err
	}
	for _, c := range containers {
		if lost[c.PodSandboxId] && c.State == cri.ContainerState_CONTAINER_RUNNING {
			if err := r.stopContainer(ctx, c.Id); err != nil {
				return err
			}
		}
	}
	return nil
}
