// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/criruntime"
	"botbottle.dev/bottle-operator/internal/state"
)

// Place is where a Bottle's Pod is on the node.
type Place struct {
	state.Pod
	// Bundle is the Pod's annotation v1alpha1.AnnotationBundle; "" if it has none.
	Bundle string
}

// PlaceOf returns the place of a Pod that the container runtime has found, without the
// folders of its volumes.
func PlaceOf(p criruntime.Pod) Place {
	return Place{
		Pod:    state.Pod{UID: p.UID, Name: p.Name, NetNS: p.NetNS, NetNSID: p.NetNSID, Cgroup: p.Cgroup},
		Bundle: p.Annotations[v1alpha1.AnnotationBundle],
	}
}
