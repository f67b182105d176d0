// SPDX-License-Identifier: Apache-2.0

package desired

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

// Changed reports whether somebody other than the agent changed the Bottle. It
// is a filter for update events: it ignores the agent's own writes to the
// status.
func Changed(e event.UpdateEvent) bool {
	before, ok1 := e.ObjectOld.(*v1alpha1.Bottle)
	after, ok2 := e.ObjectNew.(*v1alpha1.Bottle)
	return !ok1 || !ok2 || externalStateOf(before) != externalStateOf(after)
}

// externalState is what others than the agent write to a Bottle.
type externalState struct {
	generation                           int64
	deleting, finalizer, scheduled, lost bool
	restartedAt, recreatedAt, prove      string
	filesAt                              string
	held, booked                         bool
	scheduledReason, nodeName, memory    string
	cpus                                 int32
	bundle                               machinesize.Bundle
}

func externalStateOf(b *v1alpha1.Bottle) externalState {
	o := externalState{
		generation:  b.Generation,
		deleting:    !b.DeletionTimestamp.IsZero(),
		finalizer:   controllerutil.ContainsFinalizer(b, v1alpha1.FinalizerNode),
		restartedAt: b.Annotations[v1alpha1.AnnotationRestartedAt],
		recreatedAt: b.Annotations[v1alpha1.AnnotationRecreatedAt],
		prove:       b.Annotations[v1alpha1.AnnotationProve],
		filesAt:     b.Annotations[v1alpha1.AnnotationFilesAt],
		booked:      b.Status.Resources != nil,
		nodeName:    ptr.Deref(b.Status.NodeName, ""),
	}
	_, o.held = b.Annotations[v1alpha1.AnnotationHold]
	if res := b.Status.Resources; res != nil {
		o.cpus, o.memory, o.bundle = res.CPUs, res.Memory.String(), machinesize.BundleOf(res)
	}
	for _, c := range b.Status.Conditions {
		if c.Type == v1alpha1.ConditionScheduled {
			o.scheduled, o.scheduledReason = c.Status == metav1.ConditionTrue, c.Reason
		}
		o.lost = o.lost || c.Reason == v1alpha1.ReasonAgentLost
	}
	return o
}
