// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// gone waits until nothing of the Bottle is left in the API.
func (w *world) gone(name string) {
	w.Helper()
	w.eventually(func() string {
		err := w.c.Get(w.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, &v1alpha1.Bottle{})
		if err == nil || client.IgnoreNotFound(err) != nil {
			return "the Bottle is still there"
		}
		if len(w.pods(name)) > 0 {
			return "a placeholder Pod is left"
		}
		return ""
	})
}

func (w *world) readNode(name string) *corev1.Node {
	w.Helper()
	node := &corev1.Node{}
	w.must(w.c.Get(w.Context(), client.ObjectKey{Name: name}, node))
	return node
}

// room compares a node's capacity for Bottles with want, "none" if the Node must not
// name the resource. It returns "" if they are equal.
func (w *world) room(name, want string) string {
	w.Helper()
	node := w.readNode(name)
	amount := func(l corev1.ResourceList) string {
		q, has := l[v1alpha1.ResourceBottle]
		if !has {
			return "none"
		}
		return q.String()
	}
	if capacity, allocatable := amount(node.Status.Capacity), amount(node.Status.Allocatable); capacity != want || allocatable != want {
		return "got capacity " + capacity + " and allocatable " + allocatable + ", want " + want
	}
	return ""
}

// waitEvent waits for an Event with this reason about an object of this world.
func (w *world) waitEvent(reason string) {
	w.Helper()
	w.eventually(func() string {
		list := &corev1.EventList{}
		w.must(w.c.List(w.Context(), list))
		for _, e := range list.Items {
			if e.Reason == reason && (e.Namespace == w.ns || strings.Contains(e.InvolvedObject.Name, w.ns[len(w.ns)-5:])) {
				return ""
			}
		}
		return "no Event " + reason
	})
}
