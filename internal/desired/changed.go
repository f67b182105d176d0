// SPDX-License-Identifier: Apache-2.0

package desired

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Changed says whether somebody else than the agent changed the Bottle: it
// leaves out the agent's own writes to the status. It filters update events.
func Changed(e event.UpdateEvent) bool {
	before, ok1 := e.ObjectOld.(*v1alpha1.Bottle)
	after, ok2 := e.ObjectNew.(*v1alpha1.Bottle)
	return !ok1 || !ok2 || othersOf(before) != othersOf(after)
}

// others is what somebody else than the agent writes to a Bottle.
type others struct {
	generation                           int64
	deleting, finalizer, scheduled, lost bool
	restartedAt, recreatedAt, prove      string
	scheduledReason, nodeName, memory    string
	cpus                                 int32
}

func othersOf(b *v1alpha1.Bottle) others {
	o := others{
		generation:  b.Generation,
		deleting:    !b.DeletionTimestamp.IsZero(),
		finalizer:   controllerutil.ContainsFinalizer(b, v1alpha1.FinalizerNode),
		restartedAt: b.Annotations[v1alpha1.AnnotationRestartedAt],
		recreatedAt: b.Annotations[v1alpha1.AnnotationRecreatedAt],
		prove:       b.Annotations[v1alpha1.AnnotationProve],
		nodeName:    ptr.Deref(b.Status.NodeName, ""),
	}
	if res := b.Status.Resources; res != nil {
		o.cpus, o.memory = res.CPUs, res.Memory.String()
	}
	for _, c := range b.Status.Conditions {
		if c.Type == v1alpha1.ConditionScheduled {
			o.scheduled, o.scheduledReason = c.Status == metav1.ConditionTrue, c.Reason
		}
		o.lost = o.lost || c.Reason == v1alpha1.ReasonAgentLost
	}
	return o
}
