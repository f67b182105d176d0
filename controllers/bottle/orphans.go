// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
)

// orphan is something on the node that belongs to no Bottle.
type orphan struct {
	owner       host.Owner
	stillOrphan func(context.Context) (bool, error)
}

// orphans holds the orphans that wait for their teardown, by the key of their
// request. The zero value is empty.
type orphans struct {
	mu    sync.Mutex
	byKey map[types.NamespacedName]map[string]orphan // the inner key is the UID
}

func (w *orphans) add(k types.NamespacedName, o orphan) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byKey == nil {
		w.byKey = map[types.NamespacedName]map[string]orphan{}
	}
	if w.byKey[k] == nil {
		w.byKey[k] = map[string]orphan{}
	}
	w.byKey[k][o.owner.UID] = o
}

// take removes the orphans with this key and returns them by UID.
func (w *orphans) take(k types.NamespacedName) map[string]orphan {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.byKey[k]
	delete(w.byKey, k)
	return taken
}

// orphanKey returns the key of the request to tear down an orphan. It is the key
// of the orphan's Bottle, so that the teardown never runs during a pass over a
// Bottle with the same name. If the name is not known, the key has no namespace,
// so it is no Bottle's key.
func orphanKey(o host.Owner) types.NamespacedName {
	if o.Name == "" {
		return types.NamespacedName{Name: o.UID}
	}
	return types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
}

// TeardownOrphan removes everything of the owner from the node in the next pass
// with its key. It makes one attempt: the sweep finds out whether anything is
// left, and requests another. stillOrphan is called right before, and nothing is
// removed unless it returns true.
func (r *Reconciler) TeardownOrphan(o host.Owner, stillOrphan func(context.Context) (bool, error)) {
	k := orphanKey(o)
	r.orphans.add(k, orphan{o, stillOrphan})
	r.requests.Enqueue(k)
}

// teardownOrphans removes the orphans that wait under a key. If that fails, the
// pass over the Bottle with this name takes place anyway.
func (r *Reconciler) teardownOrphans(ctx context.Context, k types.NamespacedName) {
	for _, o := range r.orphans.take(k) {
		if err := r.teardownOrphan(ctx, o); err != nil && ctx.Err() == nil {
			logf.FromContext(ctx).Error(err, "Cannot remove an orphan", "machine", o.owner.ID())
		}
	}
}

func (r *Reconciler) teardownOrphan(ctx context.Context, o orphan) error {
	if _, known := r.bottles.Key(o.owner.UID); known && o.owner.Name == "" {
		return nil // its Bottle came back, and its passes have another key
	}
	still, err := o.stillOrphan(ctx)
	if err != nil || !still {
		return err
	}
	leftover := &v1alpha1.Bottle{}
	leftover.Namespace, leftover.Name, leftover.UID, leftover.Spec.Slug = o.owner.Namespace, o.owner.Name, types.UID(o.owner.UID), o.owner.Slug
	leftover.DeletionTimestamp = &metav1.Time{Time: r.Clock.Now()}
	s, err := r.newScope(leftover)
	if err == nil {
		err = flow.Run(ctx, s, r.steps.teardown(), s.recordOutcome)
	}
	if err != nil {
		return fmt.Errorf("remove orphan %s: %w", o.owner.ID(), err)
	}
	return nil
}
