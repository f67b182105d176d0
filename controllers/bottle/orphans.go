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

// orphans wait for their teardown, by the key of their request. The zero value
// has none.
type orphans struct {
	mu    sync.Mutex
	byKey map[types.NamespacedName]map[string]orphan // and by UID
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

// take returns those of a key, by UID, and forgets them.
func (w *orphans) take(k types.NamespacedName) map[string]orphan {
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.byKey[k]
	delete(w.byKey, k)
	return taken
}

// orphanKey is the key of a request to tear an orphan down: that of its
// Bottle, so that it never runs beside a pass over a Bottle of the same name.
// If the name is not known, the key has no namespace, which no Bottle's has.
func orphanKey(o host.Owner) types.NamespacedName {
	if o.Name == "" {
		return types.NamespacedName{Name: o.UID}
	}
	return types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
}

// TeardownOrphan removes everything of the owner from the node at the next
// pass of its key. It makes one attempt: whoever looks for orphans finds out
// whether anything is left, and asks again. Nothing is removed unless
// stillOrphan, which is called right before, returns true.
func (r *Reconciler) TeardownOrphan(o host.Owner, stillOrphan func(context.Context) (bool, error)) {
	k := orphanKey(o)
	r.orphans.add(k, orphan{o, stillOrphan})
	r.requests.Enqueue(k)
}

// teardownOrphans removes the orphans that were recorded under a key. One that
// cannot be removed does not keep a Bottle of its name from its pass.
func (r *Reconciler) teardownOrphans(ctx context.Context, k types.NamespacedName) {
	for _, o := range r.orphans.take(k) {
		if err := r.teardownOrphan(ctx, o); err != nil && ctx.Err() == nil {
			logf.FromContext(ctx).Error(err, "Cannot remove an orphan", "machine", o.owner.ID())
		}
	}
}

func (r *Reconciler) teardownOrphan(ctx context.Context, o orphan) error {
	if _, known := r.bottles.Key(o.owner.UID); known && o.owner.Name == "" {
		return nil // its Bottle came back, and has a key of its own
	}
	still, err := o.stillOrphan(ctx)
	if err != nil || !still {
		return err
	}
	gone := &v1alpha1.Bottle{}
	gone.Namespace, gone.Name, gone.UID, gone.Spec.Slug = o.owner.Namespace, o.owner.Name, types.UID(o.owner.UID), o.owner.Slug
	gone.DeletionTimestamp = &metav1.Time{Time: r.Clock.Now()}
	s, err := r.newScope(gone)
	if err == nil {
		err = flow.Run(ctx, s, r.steps.teardown(), s.recordOutcome)
	}
	if err != nil {
		return fmt.Errorf("remove orphan %s: %w", o.owner.ID(), err)
	}
	return nil
}
