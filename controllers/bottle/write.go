// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/freshness"
	"botbottle.dev/bottle-operator/internal/jobs"
)

// statusWriter writes what the agent reports.
type statusWriter struct {
	client  client.Client
	events  *reporter
	written freshness.Writes
	starts  *jobs.Set[error]
	clock   clock.PassiveClock
}

// wait returns how much longer to hold back the first report on a Bottle, so that one write
// reports more. delay is Options.FirstReportDelay.
func (w *statusWriter) wait(s *scope, err error, delay time.Duration) time.Duration {
	if s.runtime == bundleruntime.Pod {
		return agentstatus.FirstReportWait(s.bottle, err, w.clock.Now())
	}
	age, starting := w.starts.Age(s.owner.UID)
	if !starting || meta.FindStatusCondition(s.bottle.Status.Conditions, v1alpha1.ConditionMachineReady) != nil {
		return 0
	}
	return delay - age
}

// write writes what the pass found out in one server-side apply, and only if
// that differs from the current status. The apply carries the resourceVersion
// that the pass read: after a Bottle has moved to another node, an agent that
// does not know this yet must not overwrite the status from its successor.
func (w *statusWriter) write(ctx context.Context, s *scope, conds []metav1.Condition) error {
	observed := s.bottle.Status
	after, differs := agentstatus.Changed(observed, s.status, conds)
	if !differs {
		return nil
	}
	if w.written.Stale(s.bottle) { // the API server would refuse the write
		return apierrors.NewConflict(v1alpha1.GroupVersion.WithResource("bottles").GroupResource(), s.bottle.Name, errors.New("the cache lacks the agent's own last write"))
	}
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&after)
	if err != nil {
		return fmt.Errorf("status of bottle %s: %w", s.key(), err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Bottle"))
	u.SetNamespace(s.bottle.Namespace)
	u.SetName(s.bottle.Name)
	u.SetResourceVersion(s.bottle.ResourceVersion)
	err = w.client.Status().Apply(ctx, client.ApplyConfigurationFromUnstructured(u),
		client.FieldOwner(v1alpha1.AgentFieldOwner), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("write the status of bottle %s: %w", s.key(), err)
	}
	w.written.Record(s.bottle, u.GetResourceVersion())
	w.events.conditions(ctx, s, observed.Conditions, conds)
	return nil
}

// clear returns the Bottle to the manager: one merge patch removes the node and
// all that the agent reported. It fails if somebody else wrote in between.
func (w *statusWriter) clear(ctx context.Context, b *v1alpha1.Bottle, now time.Time) error {
	patch, err := agentstatus.ClearPatch(b, now)
	if err != nil {
		return err
	}
	return w.client.Status().Patch(ctx, b.DeepCopy(), client.RawPatch(types.MergePatchType, patch))
}
