// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// booked returns what the containers of a Pod request. If a Pod has one container, as
// placeholders have, the scheduler books exactly that; requests at the level of the Pod
// could only add to it.
func booked(pod *corev1.Pod) corev1.ResourceList {
	sum := corev1.ResourceList{}
	for i := range pod.Spec.Containers {
		for name, q := range pod.Spec.Containers[i].Resources.Requests {
			total := sum[name]
			total.Add(q)
			sum[name] = total
		}
	}
	return sum
}

// flawOf returns why a Pod cannot place the Bottle that needs the Pod want, or "".
// The Pod's digest is no proof, because whoever may write Pods can set it. So flawOf
// compares what the scheduler counts.
func flawOf(pod, want *corev1.Pod) string {
	if len(pod.Spec.Containers) != 1 || len(pod.Spec.InitContainers)+len(pod.Spec.EphemeralContainers) > 0 {
		return "it does not have exactly the container that the manager gives it"
	}
	return shortfall(booked(pod), booked(want))
}

// unbookedOf returns what a Pod lacks of what was booked for a Bottle on its node,
// or "". An earlier manager did not record the overhead, which is then not counted.
func unbookedOf(pod *corev1.Pod, b *v1alpha1.Bottle) string {
	r := b.Status.Resources
	if r == nil {
		return ""
	}
	cpu, memory := *resource.NewQuantity(int64(r.CPUs), resource.DecimalSI), r.Memory.DeepCopy()
	if r.Bundle != nil { // an earlier manager booked none
		cpu.Add(r.Bundle.CPU)
		memory.Add(r.Bundle.Memory)
	}
	if r.Overhead != nil {
		cpu.Add(ptr.Deref(r.Overhead.CPU, resource.Quantity{}))
		memory.Add(ptr.Deref(r.Overhead.Memory, resource.Quantity{}))
	}
	want := corev1.ResourceList{
		corev1.ResourceCPU:      cpu,
		corev1.ResourceMemory:   memory,
		v1alpha1.ResourceBottle: *resource.NewQuantity(1, resource.DecimalSI),
	}
	if r.Disk != nil {
		want[corev1.ResourceEphemeralStorage] = *r.Disk
	}
	return shortfall(booked(pod), want)
}

// mismatch says what is wrong with a placeholder that must stay for now.
func (f facts) mismatch() string {
	return fmt.Sprintf("Pod %s is not what the manager creates, and is replaced soon: %s; look for what changes Pods in this namespace, such as a webhook", f.pod.name, f.pod.flaw)
}

// shortfall describes the requests in want that have does not cover, or returns "".
func shortfall(have, want corev1.ResourceList) string {
	var short []string
	for name, needed := range want {
		if q := have[name]; q.Cmp(needed) < 0 {
			short = append(short, fmt.Sprintf("%s of %s instead of %s", q.String(), name, needed.String()))
		}
	}
	if len(short) == 0 {
		return ""
	}
	slices.Sort(short)
	return "it requests " + strings.Join(short, ", ")
}

// replacements remembers which flawed placeholder of each Bottle was replaced
// last. If its successor is flawed too, it stays for the rest of a pause, because
// something in the cluster, such as a webhook, may change every placeholder.
type replacements struct {
	clock clock.PassiveClock
	pause time.Duration

	mu   sync.Mutex
	last map[types.NamespacedName]replacement
}

type replacement struct {
	uid types.UID // of the Pod
	at  time.Time
}

func newReplacements(c clock.PassiveClock, pause time.Duration) *replacements {
	return &replacements{clock: c, pause: pause, last: map[types.NamespacedName]replacement{}}
}

// record records that a flawed Pod of a Bottle was replaced.
func (r *replacements) record(key types.NamespacedName, pod types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last[key].uid != pod {
		r.last[key] = replacement{uid: pod, at: r.clock.Now()}
	}
}

// wait returns how long a flawed Pod of a Bottle must stay before it is replaced.
func (r *replacements) wait(key types.NamespacedName, pod types.UID) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, replaced := r.last[key]
	if !replaced || last.uid == pod {
		return 0
	}
	return max(0, r.pause-r.clock.Since(last.at))
}

// forget drops the record of a Bottle that is gone.
func (r *replacements) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.last, key)
}
