// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// A drained placeholder stays until the machine is torn down. Only then is the
// Bottle placed again.
func TestDrain(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	first, _ := w.node("a")
	second, _ := w.node("b")
	w.placed(builders.MakeBottle("a").Obj(), first)
	w.takeOver("a")
	drained := w.pod("a")
	w.must(w.c.Delete(t.Context(), drained))
	w.waitScheduled("a", "False Evicted")
	w.always(func() string {
		pods := w.pods("a")
		if len(pods) != 1 || pods[0].UID != drained.UID {
			return "the drained Pod no longer reserves its resources"
		}
		if *w.bottle("a").Status.NodeName != first {
			return "the Bottle left without its agent"
		}
		return ""
	})
	w.leave("a")
	next := w.pod("a")
	if next.UID == drained.UID {
		t.Fatal("got the drained Pod, want a new one")
	}
	w.waitScheduled("a", "False Pending")
	w.bind(next, second)
	w.eventually(func() string {
		if b := w.bottle("a"); b.Status.NodeName == nil || *b.Status.NodeName != second {
			return "not on the second node yet"
		}
		return ""
	})
}

// A placeholder that somebody removed by force is created again, for the same
// node only, with the booked resources and without preferences.
func TestForcedRemoval(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").CPUs(3).NodeSelector("disk", "fast").Obj(), node)
	w.takeOver("a")
	b := w.bottle("a")
	five := int32(5)
	b.Spec.Machine.CPUs = &five
	w.must(w.c.Update(t.Context(), b))

	pod := w.pod("a")
	w.must(w.c.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
	patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))
	w.must(w.c.Patch(t.Context(), pod.DeepCopy(), patch))
	w.eventually(func() string {
		if pods := w.pods("a"); len(pods) != 1 || pods[0].UID == pod.UID {
			return "no new placeholder yet"
		}
		return ""
	})
	w.waitScheduled("a", "True Scheduled")
	next := w.pod("a")
	terms := next.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 1 || terms[0].MatchFields[0].Values[0] != node || next.Spec.NodeSelector != nil {
		t.Errorf("got terms %v and selector %v, want only node %s", terms, next.Spec.NodeSelector, node)
	}
	if got, want := next.Spec.Containers[0].Resources.Requests.Cpu().String(), "3350m"; got != want {
		t.Errorf("got a request of %s CPUs, want the booked %s", got, want)
	}
	if got := *w.bottle("a").Status.NodeName; got != node {
		t.Errorf("got node %s, want %s", got, node)
	}
}

// A placeholder that is bound to a node other than the Bottle's is replaced.
func TestPlaceholderElsewhere(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	other, _ := w.node("b")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")
	w.stop()
	pod := w.pod("a")
	w.must(w.c.Patch(t.Context(), pod.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))))
	w.must(w.c.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
	fake := pod.DeepCopy()
	fake.ResourceVersion, fake.UID, fake.Spec.NodeName = "", "", other
	w.must(w.c.Create(t.Context(), fake))
	w.start(interceptor.Funcs{})
	w.eventually(func() string {
		pods := w.pods("a")
		if len(pods) != 1 || pods[0].UID == fake.UID || pods[0].Spec.NodeName != node {
			return "the wrong placeholder is still there"
		}
		return ""
	})
	if got := *w.bottle("a").Status.NodeName; got != node {
		t.Errorf("got node %s, want %s", got, node)
	}
}

func TestAgentLostAndBack(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	name, stopAgent := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), name)
	w.takeOver("a")
	stopAgent()
	w.wait("a", v1alpha1.ConditionReady, "Unknown AgentLost")
	w.wait("a", v1alpha1.ConditionEgressEnforced, "Unknown AgentLost")
	b := w.bottle("a")
	if got := condition(b, v1alpha1.ConditionScheduled); got != "True Scheduled" {
		t.Errorf("got Scheduled %s, want it to stay True", got)
	}
	if got := condition(b, v1alpha1.ConditionMachineReady); got != "True MachineRunning" {
		t.Errorf("got MachineReady %s, want what the agent reported last", got)
	}
	w.eventually(func() string { return w.room(name, "none") })
	w.waitEvent("AgentLost")

	w.agentOn(name)
	w.newGeneration("a", 2) // before the agent reports anything new
	node := w.readNode(name)
	node.Status.Capacity = corev1.ResourceList{v1alpha1.ResourceBottle: *resourceOf("250")}
	node.Status.Allocatable = node.Status.Capacity
	w.must(w.c.Status().Update(t.Context(), node))
	w.always(func() string {
		if w.room(name, "250") != "" { // it may be withdrawn once more until the manager sees the renewal
			node = w.readNode(name)
			node.Status.Capacity = corev1.ResourceList{v1alpha1.ResourceBottle: *resourceOf("250")}
			node.Status.Allocatable = node.Status.Capacity
			_ = w.c.Status().Update(t.Context(), node)
		}
		if got := condition(w.bottle("a"), v1alpha1.ConditionReady); got == "" {
			return "Ready vanished"
		}
		return ""
	})
	w.report("a", "Proving")
	w.always(func() string {
		if got := condition(w.bottle("a"), v1alpha1.ConditionReady); got != "False Proving" {
			return "got Ready " + got + ", want what the agent reports"
		}
		return w.room(name, "250")
	})
}

// TestNodeLoss checks when a Bottle leaves a node whose agent cannot tear it
// down.
func TestNodeLoss(t *testing.T) {
	type loss struct{ agent, ready, tainted, gone bool }
	tests := map[string]struct {
		world loss
		want  string // Scheduled
		stays bool
	}{
		"agent lost":                       {loss{ready: true}, "True Scheduled", true},
		"node not ready, agent lost":       {loss{}, "True Scheduled", true},
		"tainted, but ready":               {loss{ready: true, tainted: true}, "True Scheduled", true},
		"tainted, not ready, agent alive":  {loss{agent: true, tainted: true}, "True Scheduled", true},
		"gone, but the agent lives":        {loss{agent: true, gone: true}, "False Evicted", true},
		"tainted, not ready, agent lost":   {loss{tainted: true}, "False Pending", false},
		"gone, agent lost":                 {loss{gone: true}, "False Pending", false},
		"tainted and gone, the agent lost": {loss{gone: true, tainted: true}, "False Pending", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.start(interceptor.Funcs{})
			name, stopAgent := w.node("a")
			w.placed(builders.MakeBottle("a").Obj(), name)
			w.takeOver("a")
			w.report("a", "Proven")
			old := w.pod("a")
			if !tc.world.agent {
				stopAgent()
				w.wait("a", v1alpha1.ConditionReady, "Unknown AgentLost")
			}
			node := w.readNode(name)
			if tc.world.tainted {
				node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute})
				w.must(w.c.Update(t.Context(), node))
			}
			if !tc.world.ready {
				node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}}
				w.must(w.c.Status().Update(t.Context(), node))
			}
			if tc.world.gone {
				w.must(w.c.Delete(t.Context(), node))
			}
			w.waitScheduled("a", tc.want)
			if tc.stays {
				w.always(func() string {
					if b := w.bottle("a"); b.Status.NodeName == nil {
						return "the Bottle left: " + condition(b, v1alpha1.ConditionScheduled)
					}
					if pods := w.pods("a"); len(pods) != 1 || pods[0].UID != old.UID {
						return "its placeholder left"
					}
					return ""
				})
				return
			}
			b := w.bottle("a")
			if b.Status.NodeName != nil || b.Status.Machine != nil || b.Status.Network != nil || len(b.Status.Conditions) != 2 {
				t.Errorf("got status %+v, want nothing of the lost node", b.Status)
			}
			if e := b.Status.Egress; e == nil || e.Leak == nil || e.Leak.Path != "tcp to the node" || e.RecentDenials != nil {
				t.Errorf("got egress %+v, want only the leak, which counts against the Bottle on every node", e)
			}
			if next := w.pod("a"); next.UID == old.UID || next.Spec.NodeName != "" {
				t.Errorf("got Pod %s on %q, want a new one without a node", next.UID, next.Spec.NodeName)
			}
			w.waitEvent("NodeLost")
		})
	}
}

// A Bottle on a lost node can be deleted although its agent cannot help.
func TestDeletedOnLostNode(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	name, stopAgent := w.node("a")
	b := w.placed(builders.MakeBottle("a").Obj(), name)
	w.takeOver("a")
	w.must(w.c.Delete(t.Context(), b))
	stopAgent()
	w.wait("a", v1alpha1.ConditionReady, "Unknown AgentLost")
	w.always(func() string {
		if len(w.bottle("a").Finalizers) == 0 {
			return "the finalizer was removed while the node may still be running"
		}
		return ""
	})
	w.must(w.c.Delete(t.Context(), w.readNode(name)))
	w.gone("a")
}

// A Bottle can be deleted after it left one node and before it is placed again.
func TestDeletedBetweenNodes(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	name, _ := w.node("a")
	b := w.placed(builders.MakeBottle("a").Obj(), name)
	w.takeOver("a")
	w.must(w.c.Delete(t.Context(), w.pod("a")))
	w.waitScheduled("a", "False Evicted")
	w.leave("a")
	w.waitScheduled("a", "False Pending")
	w.must(w.c.Delete(t.Context(), b))
	w.gone("a")
}

// A Bottle that is deleted without its dependents leaves a Pod without an owner,
// which is removed.
func TestOrphanedPlaceholder(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	b := w.create(builders.MakeBottle("a").Obj())
	pod := w.pod("a")
	before := pod.DeepCopy()
	pod.OwnerReferences = nil
	w.must(w.c.Patch(t.Context(), pod, client.MergeFrom(before)))
	w.must(w.c.Delete(t.Context(), b, client.PropagationPolicy(metav1.DeletePropagationBackground)))
	w.gone("a")
}

// A placeholder that lost its annotation and then its Bottle is found by its
// controller.
func TestPlaceholderWithoutAnnotation(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	b := w.create(builders.MakeBottle("a").Obj())
	pod := w.pod("a")
	w.stop()
	w.must(w.c.Patch(t.Context(), pod, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":null}}`))))
	w.must(w.c.Delete(t.Context(), b, client.PropagationPolicy(metav1.DeletePropagationBackground)))
	w.start(interceptor.Funcs{})
	w.gone("a")
}

// A stopped Bottle keeps what it has booked. Deleting its placeholder Pod gives that up:
// the Bottle leaves its node, and gets no new Pod until it is to run again.
func TestStoppedBottleGivesUpItsNode(t *testing.T) {
	w := newWorld(t)
	w.start(interceptor.Funcs{})
	node, _ := w.node("a")
	w.placed(builders.MakeBottle("a").Obj(), node)
	w.takeOver("a")
	w.desire("a", v1alpha1.DesiredStateStopped)
	pod := w.pod("a")
	w.must(w.c.Delete(t.Context(), pod))
	w.waitScheduled("a", "False Evicted")
	w.leave("a")
	w.waitScheduled("a", "False Stopped")
	w.wait("a", v1alpha1.ConditionReady, "True Stopped")
	w.eventually(func() string {
		if n := len(w.pods("a")); n > 0 {
			return fmt.Sprintf("got %d Pods of a stopped Bottle without a node, want none", n)
		}
		return ""
	})
	w.desire("a", v1alpha1.DesiredStateRunning)
	w.waitScheduled("a", "False Pending")
	if next := w.pod("a"); next.Spec.NodeName != "" || next.Spec.Affinity != nil {
		t.Errorf("got a Pod on %q, want one for any node", next.Spec.NodeName)
	}
}
