// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/inherit"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

// annotationDigest, on a placeholder Pod, is the digest of what the Pod requests
// from the scheduler. A Bottle that changes before it is placed gets a new Pod.
const annotationDigest = "botbottle.dev/placeholder-digest"

// mebibyte is the unit in which memory is booked, because smolvm accepts no
// other.
const mebibyte = 1 << 20

// pickResources returns what is booked for the machine, its disks and its bundle:
// what the spec sets, and the defaults for the rest.
func pickResources(b *v1alpha1.Bottle, o Options) v1alpha1.ResourcesStatus {
	r := v1alpha1.ResourcesStatus{CPUs: o.DefaultCPUs, Memory: o.DefaultMemory}
	if m := b.Spec.Machine; m != nil {
		r.CPUs = ptr.Deref(m.CPUs, r.CPUs)
		r.Memory = ptr.Deref(m.Memory, r.Memory)
	}
	mib := (r.Memory.Value() + mebibyte - 1) / mebibyte
	r.Memory = *resource.NewQuantity(mib*mebibyte, resource.BinarySI)
	r.Bundle = &v1alpha1.BundleResources{CPU: o.BundleCPU.DeepCopy(), Memory: o.BundleMemory.DeepCopy()}
	r.Overhead = &v1alpha1.OverheadResources{CPU: ptr.To(o.OverheadCPU.DeepCopy()), Memory: ptr.To(o.OverheadMemory.DeepCopy())}
	disk := o.DefaultDisk.Value()
	if n := machinesize.Disk(b.Spec.Machine); n > 0 {
		disk = n
	}
	if disk > 0 {
		r.Disk = resource.NewQuantity(disk, resource.BinarySI)
	}
	return r
}

// renderPod returns the placeholder of a Bottle that needs these resources. If
// pin is empty, the placeholder carries the spec's scheduling fields. Otherwise
// the Bottle is already on the node pin: the placeholder is created on that node,
// because neither preferences nor other Pods must keep a running machine from being
// booked.
func renderPod(b *v1alpha1.Bottle, r v1alpha1.ResourcesStatus, pin string, o Options) (*corev1.Pod, error) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:        podName(b),
			Namespace:   b.Namespace,
			Labels:      podLabels(b),
			Annotations: inherit.Annotations(b),
			Finalizers:  []string{v1alpha1.FinalizerMachine},
			OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(b, v1alpha1.GroupVersion.WithKind("Bottle")),
			},
		},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false),
			TerminationGracePeriodSeconds: ptr.To(int64(0)),
			SecurityContext: &corev1.PodSecurityContext{
				// The image names the user, because OpenShift gives each namespace
				// a range of its own and refuses any other fixed user.
				RunAsNonRoot:   ptr.To(true),
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{placeholderContainer(r, o)},
		},
	}
	copyScheduling(pod, b, pin)
	digest, err := digestOf(pod)
	if err != nil {
		return nil, err
	}
	pod.Annotations[v1alpha1.LabelName] = b.Name
	pod.Annotations[annotationDigest] = digest
	return pod, nil
}

func placeholderContainer(r v1alpha1.ResourcesStatus, o Options) corev1.Container {
	if r.Overhead == nil { // an earlier manager placed the Bottle
		r.Overhead = &v1alpha1.OverheadResources{CPU: &o.OverheadCPU, Memory: &o.OverheadMemory}
	}
	cpu := *resource.NewQuantity(int64(r.CPUs), resource.DecimalSI)
	cpu.Add(ptr.Deref(r.Overhead.CPU, resource.Quantity{}))
	memory := r.Memory.DeepCopy()
	memory.Add(ptr.Deref(r.Overhead.Memory, resource.Quantity{}))
	// An earlier manager recorded no limits of the bundle; the agent then applies
	// the defaults.
	bundle := machinesize.BundleOf(&r).Status()
	cpu.Add(bundle.CPU)
	memory.Add(bundle.Memory)
	// Limits equal requests: extended resources require that, and quotas on
	// either then count what a Bottle really uses.
	list := corev1.ResourceList{
		corev1.ResourceCPU:      cpu,
		corev1.ResourceMemory:   memory,
		v1alpha1.ResourceBottle: resource.MustParse("1"),
	}
	if r.Disk != nil {
		list[corev1.ResourceEphemeralStorage] = r.Disk.DeepCopy()
	}
	return corev1.Container{
		Name:            "placeholder",
		Image:           o.PlaceholderImage,
		ImagePullPolicy: corev1.PullIfNotPresent,
		Resources:       corev1.ResourceRequirements{Requests: list, Limits: list.DeepCopy()},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false),
			ReadOnlyRootFilesystem:   ptr.To(true),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		},
	}
}

// podName is the Bottle's id, which is the name of its placeholder. Placeholders have
// fixed names, so that two managers, or one with an outdated view, do not create one
// each.
func podName(b *v1alpha1.Bottle) string {
	return host.Owner{UID: string(b.UID), Slug: b.Spec.Slug}.ID()
}

// successorName returns the name of the placeholder that takes the place of an ended one.
// The two names of a Bottle's placeholders take turns.
func successorName(b *v1alpha1.Bottle, ended string) string {
	if name := podName(b); ended != name {
		return name
	}
	return podName(b) + "-2"
}

// podLabels returns the labels that a placeholder inherits, and ours.
func podLabels(b *v1alpha1.Bottle) map[string]string {
	l := inherit.Labels(b)
	l[v1alpha1.LabelUID] = string(b.UID)
	l[v1alpha1.LabelSlug] = b.Spec.Slug
	l[v1alpha1.LabelNamespace] = b.Namespace
	if len(validation.IsValidLabelValue(b.Name)) == 0 {
		l[v1alpha1.LabelName] = b.Name
	}
	return l
}

func copyScheduling(pod *corev1.Pod, b *v1alpha1.Bottle, pin string) {
	s := b.Spec.Scheduling
	if s == nil {
		s = &v1alpha1.Scheduling{}
	}
	s = s.DeepCopy()
	pod.Spec.Tolerations = s.Tolerations
	pod.Spec.PriorityClassName = ptr.Deref(s.PriorityClassName, "")
	if pin != "" {
		// The scheduler counts a Pod with a node from its creation on, even if the node
		// has no room or is cordoned: the machine uses the resources in any case.
		pod.Spec.NodeName = pin
		pod.Spec.Affinity = pinned(nil, pin)
		return
	}
	pod.Spec.NodeSelector = s.NodeSelector
	pod.Spec.TopologySpreadConstraints = s.TopologySpreadConstraints
	pod.Spec.Affinity = s.Affinity
	if node := ptr.Deref(b.Spec.NodeName, ""); node != "" {
		pod.Spec.Affinity = pinned(s.Affinity, node)
	}
}

// pinned returns affinity a, restricted to one node. The terms of a node selector
// are alternatives, so each of them is restricted.
func pinned(a *corev1.Affinity, node string) *corev1.Affinity {
	pin := corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}
	out := &corev1.Affinity{}
	if a != nil {
		out = a.DeepCopy()
	}
	if out.NodeAffinity == nil {
		out.NodeAffinity = &corev1.NodeAffinity{}
	}
	required := out.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		out.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{pin}}},
		}
		return out
	}
	for i := range required.NodeSelectorTerms {
		term := &required.NodeSelectorTerms[i]
		if len(term.MatchFields)+len(term.MatchExpressions) > 0 { // an empty term matches nothing, and must stay that way
			term.MatchFields = append(term.MatchFields, pin)
		}
	}
	return out
}

// digestOf returns a digest of what the Pod requests from the scheduler.
func digestOf(pod *corev1.Pod) (string, error) {
	data, err := json.Marshal(struct {
		Labels map[string]string
		Spec   corev1.PodSpec
	}{pod.Labels, pod.Spec})
	if err != nil {
		return "", fmt.Errorf("encode the placeholder Pod: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8]), nil
}

// observePod returns the properties of a Pod that decisions use, or nil.
func observePod(pod *corev1.Pod) *podFacts {
	if pod == nil {
		return nil
	}
	f := &podFacts{
		name:     pod.Name,
		created:  pod.CreationTimestamp.Time,
		node:     pod.Spec.NodeName,
		deleting: !pod.DeletionTimestamp.IsZero(),
		unheld:   !controllerutil.ContainsFinalizer(pod, v1alpha1.FinalizerMachine),
		marked:   beingReplaced(pod),
		digest:   pod.Annotations[annotationDigest],
		ended:    endOf(pod),
		evicted:  evictedFrom(pod),
		failures: failuresBefore(pod),
		running:  pod.Status.Phase == corev1.PodRunning,
	}
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == corev1.PodScheduled {
			f.scheduled = &pod.Status.Conditions[i]
		}
	}
	return f
}
