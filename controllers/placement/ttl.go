// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// expiry returns how long a Bottle stays before it is deleted, because it finished
// spec.lifetime.ttlSecondsAfterFinished ago, and whether it has such a time. Files that
// are being copied postpone it.
func expiry(b *v1alpha1.Bottle, now time.Time) (time.Duration, bool) {
	if b.Spec.Lifetime == nil || b.Spec.Lifetime.TTLSecondsAfterFinished == nil || !b.DeletionTimestamp.IsZero() || !idle(b) {
		return 0, false
	}
	ttl := time.Duration(*b.Spec.Lifetime.TTLSecondsAfterFinished) * time.Second
	at := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionFinished).LastTransitionTime.Add(ttl)
	return max(0, at.Sub(now)), true
}

// expire deletes a Bottle whose time has come, in the very version that was judged: a
// restart that was requested in the meantime wins.
func expire(ctx context.Context, c client.Client, b *v1alpha1.Bottle) error {
	err := c.Delete(ctx, b, client.Preconditions{UID: &b.UID, ResourceVersion: &b.ResourceVersion})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete Bottle %s/%s, whose ttlSecondsAfterFinished has passed: %w", b.Namespace, b.Name, err)
	}
	ctrl.LoggerFrom(ctx).Info("Deleted a finished Bottle", "ttlSecondsAfterFinished", *b.Spec.Lifetime.TTLSecondsAfterFinished)
	return nil
}
