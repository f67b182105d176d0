// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"botbottle.dev/bottle-operator/internal/passes"
)

// TestResultsHaveOrdinaryPriority checks that a pass that ran first is not also
// repeated first: its result carries no priority.
func TestResultsHaveOrdinaryPriority(t *testing.T) {
	failed := errors.New("failed")
	r := withOrdinaryPriority(reconcile.Func(func(context.Context, reconcile.Request) (reconcile.Result, error) {
		return reconcile.Result{RequeueAfter: time.Minute}, failed
	}))
	got, err := r.Reconcile(t.Context(), reconcile.Request{})
	if !errors.Is(err, failed) || got.RequeueAfter != time.Minute || got.Priority == nil || *got.Priority != passes.OrdinaryPriority {
		t.Errorf("got %+v, %v, want the pass's result and error, with priority %d", got, err, passes.OrdinaryPriority)
	}
}
