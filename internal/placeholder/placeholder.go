// SPDX-License-Identifier: Apache-2.0

package placeholder

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/inherit"
)

// AnnotationDigest is the annotation with the digest of a placeholder's labels and spec. A
// Bottle that changes before it is placed gets a new Pod.
const AnnotationDigest = "botbottle.dev/placeholder-digest"

// gracePeriod is how many seconds a Pod may take to end. In this time, the guest is asked
// to end.
const gracePeriod = 30

// Render returns the placeholder of a Bottle that needs these resources. If
// pin is empty, the placeholder carries the spec's scheduling fields. Otherwise
// the Bottle is already on the node pin: the placeholder is created on that node,
// because neither preferences nor other Pods must keep a running machine from being
// booked.
func Render(b *v1alpha1.Bottle, r v1alpha1.ResourcesStatus, pin string, o Options) (*corev1.Pod, error) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:        Name(b),
			Namespace:   b.Namespace,
			Labels:      labelsOf(b),
			Annotations: inherit.Annotations(b),
			Finalizers:  []string{v1alpha1.FinalizerMachine},
			OwnerReferences: []metav1.OwnerReference{
				*metav1.NewControllerRef(b, v1alpha1.GroupVersion.WithKind("Bottle")),
			},
		},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken:  ptr.To(false),
			EnableServiceLinks:            ptr.To(false),
			TerminationGracePeriodSeconds: ptr.To(int64(gracePeriod)),
			SecurityContext: &corev1.PodSecurityContext{
				SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			},
			Containers: []corev1.Container{container(b, r, o)},
		},
	}
	if foreignImage(b) != "" {
		pod.Spec.ImagePullSecrets = pullSecrets(b)
	} else {
		// The image names the user, because OpenShift gives each namespace a range of its
		// own and refuses any other fixed user.
		pod.Spec.SecurityContext.RunAsNonRoot = ptr.To(true)
		pod.Spec.Volumes = volumes()
	}
	copyScheduling(pod, b, pin)
	digest, err := digestOf(pod)
	if err != nil {
		return nil, err
	}
	pod.Annotations[v1alpha1.LabelName] = b.Name
	pod.Annotations[v1alpha1.AnnotationBundle] = desired.BundleDigest(b)
	pod.Annotations[AnnotationDigest] = digest
	return pod, nil
}

// Name is the Bottle's id, which is the name of its placeholder. Placeholders have
// fixed names, so that two managers, or one with an outdated view, do not create one
// each.
func Name(b *v1alpha1.Bottle) string {
	return host.Owner{UID: string(b.UID), Slug: b.Spec.Slug}.ID()
}

// SuccessorName returns the name of the placeholder that takes the place of an ended one.
// The two names of a Bottle's placeholders take turns.
func SuccessorName(b *v1alpha1.Bottle, ended string) string {
	if name := Name(b); ended != name {
		return name
	}
	return Name(b) + "-2"
}

// labelsOf returns the labels that a placeholder inherits, and ours.
func labelsOf(b *v1alpha1.Bottle) map[string]string {
	l := inherit.Labels(b)
	l[v1alpha1.LabelUID] = string(b.UID)
	l[v1alpha1.LabelSlug] = b.Spec.Slug
	l[v1alpha1.LabelNamespace] = b.Namespace
	if len(validation.IsValidLabelValue(b.Name)) == 0 {
		l[v1alpha1.LabelName] = b.Name
	}
	return l
}

// digestOf returns a digest of the Pod's labels and spec.
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
