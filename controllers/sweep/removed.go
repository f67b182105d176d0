// SPDX-License-Identifier: Apache-2.0

package sweep

import (
	"context"
	"fmt"
	"sync"
	"time"

	toolscache "k8s.io/client-go/tools/cache"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
)

// The pauses between attempts to tear down what is left of a removed Bottle.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// removals are the Bottles that the API server reported as removed, and of which
// something may be left on the node, by UID. They need no grace period: the report
// is about the Bottle itself, while a list may lack a Bottle for other reasons,
// such as an API server that was restored from a backup.
type removals struct {
	mu      sync.Mutex
	pending map[string]bool
	// added has room for one value. It holds one if something was added since it was last
	// read.
	added chan struct{}
}

func newRemovals() *removals {
	return &removals{pending: map[string]bool{}, added: make(chan struct{}, 1)}
}

func (r *removals) add(uid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending[uid] = true
	select {
	case r.added <- struct{}{}:
	default:
	}
}

func (r *removals) drop(uid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, uid)
}

// left returns the owners of the folders of pending removals. Removals without a
// folder are done: a Bottle's folder is created before everything else of it on the node,
// and is removed last.
func (r *removals) left(folders []host.Owner) []host.Owner {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []host.Owner
	for _, o := range folders {
		if r.pending[o.UID] {
			out = append(out, o)
		}
	}
	clear(r.pending)
	for _, o := range out {
		r.pending[o.UID] = true
	}
	return out
}

// watchRemovals records each Bottle that the informers report as removed. Normally, the
// teardown was done before the removal, and nothing is left. Otherwise, somebody removed
// the Bottle's finalizer, or cleared the node in its status.
func (w *Sweeper) watchRemovals(ctx context.Context) error {
	informer, err := w.Informers.GetInformer(ctx, &v1alpha1.Bottle{})
	if err == nil {
		_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{DeleteFunc: w.removed})
	}
	if err != nil {
		return fmt.Errorf("watch for removed Bottles: %w", err)
	}
	return nil
}

// removed records a removal. A toolscache.DeletedFinalStateUnknown is not one: it means
// only that a new list lacked the Bottle, and Sweep decides what follows from that.
func (w *Sweeper) removed(o any) {
	if b, ok := o.(*v1alpha1.Bottle); ok {
		w.removals.add(string(b.UID))
	}
}

// teardownRemoved requests the teardown of what is left of removed Bottles. If
// there is anything, it returns a channel that receives after pause, when it is
// time to look again.
func (w *Sweeper) teardownRemoved(ctx context.Context, pause time.Duration) (<-chan time.Time, error) {
	folders, err := w.Inventory.Folders.Owners()
	if err != nil {
		return w.Clock.After(pause), fmt.Errorf("look for removed Bottles: %w", err)
	}
	here, requested := host.Owner{Cluster: w.Cluster, Node: w.Node}, false
	for _, o := range w.removals.left(folders) {
		if !here.Local(o) || w.Mode == Report { // Sweep reports it
			w.removals.drop(o.UID)
			continue
		}
		logf.FromContext(ctx).Info("A Bottle was removed without its teardown; it is torn down now", "name", o.ID(), "namespace", o.Namespace, "bottle", o.Name)
		w.requested[o.UID], requested = o, true
		w.Teardown.TeardownOrphan(o, func(ctx context.Context) (bool, error) { return w.stillRemoved(ctx, o) })
	}
	if !requested {
		return nil, nil
	}
	return w.Clock.After(pause), nil
}

// stillRemoved reports whether the removed Bottle is still not on this node.
func (w *Sweeper) stillRemoved(ctx context.Context, o host.Owner) (bool, error) {
	if err := w.sameCluster(ctx); err != nil {
		return false, err
	}
	still, err := w.stillOrphan(ctx, o)
	if err == nil && !still {
		w.removals.drop(o.UID)
	}
	return still, err
}
