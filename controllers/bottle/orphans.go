// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/passes"
)

// TeardownOrphan removes everything of the owner from the node in the next pass
// with its key. It makes one attempt: the sweep finds out whether anything is
// left, and requests another. stillOrphan is called right before, and nothing is
// removed unless it returns true.
func (r *Reconciler) TeardownOrphan(o host.Owner, stillOrphan func(context.Context) (bool, error)) {
	k := passes.OrphanKey(o)
	r.orphans.Add(k, passes.Orphan{Owner: o, StillOrphan: stillOrphan})
	r.requests.Enqueue(k)
}

// teardownOrphans removes the orphans that wait under a key. If that fails, the
// pass over the Bottle with this name takes place anyway.
func (r *Reconciler) teardownOrphans(ctx context.Context, k types.NamespacedName) {
	for _, o := range r.orphans.Take(k) {
		if err := r.teardownOrphan(ctx, o); err != nil && ctx.Err() == nil {
			logf.FromContext(ctx).Error(err, "Cannot remove an orphan", "machine", o.Owner.ID())
		}
	}
}

func (r *Reconciler) teardownOrphan(ctx context.Context, o passes.Orphan) error {
	if _, known := r.bottles.Key(o.Owner.UID); known && o.Owner.Name == "" {
		return nil // its Bottle came back, and its passes have another key
	}
	still, err := o.StillOrphan(ctx)
	if err != nil || !still {
		return err
	}
	leftover := &v1alpha1.Bottle{}
	leftover.Namespace, leftover.Name, leftover.UID, leftover.Spec.Slug = o.Owner.Namespace, o.Owner.Name, types.UID(o.Owner.UID), o.Owner.Slug
	leftover.DeletionTimestamp = &metav1.Time{Time: r.Clock.Now()}
	s, err := r.newScope(leftover)
	if err == nil {
		err = flow.Run(ctx, s, r.steps.teardown(), s.recordOutcome)
	}
	if err != nil {
		return fmt.Errorf("remove orphan %s: %w", o.Owner.ID(), err)
	}
	return nil
}
