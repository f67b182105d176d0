// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"sync"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// left holds the owners whose Pods may have lost their sandbox and left a bundle behind.
type left struct {
	mu   sync.Mutex
	uids map[string]bool // "" means all
	wake chan struct{}
}

func (l *left) init() { l.uids, l.wake = map[string]bool{}, make(chan struct{}, 1) }

func (l *left) add(uid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uids[uid] = true
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *left) take() []string {
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

// endLeft ends the bundles that lost sandboxes leave behind, until ctx ends. The kubelet
// makes no new sandbox before they have ended. It asks them to, and waits for the grace
// period of the Pod, because a bundle that must outlive its guest ignores that. After an
// error, the kubelet does the same in its own time.
func (r *Runtime) endLeft(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.left.wake:
		}
		for _, uid := range r.left.take() {
			_ = r.endLeftOf(ctx, uid)
		}
	}
}

// endLeftOf ends what the lost sandboxes of one owner left behind; "" means of all.
func (r *Runtime) endLeftOf(ctx context.Context, uid string) error {
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
