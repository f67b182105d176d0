// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"os"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"
)

// The manager finds the image of the built-in bundle in its own Pod, as the Deployment in
// config/manager makes it.
func TestBundleImage(t *testing.T) {
	text, err := os.ReadFile("../../config/manager/deployment.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d := &appsv1.Deployment{}
	if err := yaml.UnmarshalStrict(text, d); err != nil {
		t.Fatal(err)
	}
	podName := false
	for _, v := range d.Spec.Template.Spec.Containers[0].Env {
		podName = podName || v.Name == podNameVariable && v.ValueFrom.FieldRef.FieldPath == "metadata.name"
	}
	if !podName {
		t.Errorf("got no variable %s in the Deployment, want one with the Pod's name", podNameVariable)
	}
	sidecar := corev1.Container{Name: "sidecar", Image: "other:1"}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: "own"}, Spec: d.Spec.Template.Spec}
	pod.Spec.Containers = append([]corev1.Container{sidecar}, pod.Spec.Containers...)
	strange := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: "strange"}, Spec: corev1.PodSpec{Containers: []corev1.Container{sidecar}}}
	c := fake.NewClientBuilder().WithObjects(pod, strange).Build()
	for name, tt := range map[string]struct{ flag, pod, want, failure string }{
		"its own":           {"", "own", "bottle-operator:latest", ""},
		"the flag":          {"mirror/operator:1", "own", "mirror/operator:1", ""},
		"outside a Pod":     {"", "", "", "required"},
		"a strange Pod":     {"", "strange", "", `no container "manager"`},
		"a Pod that is not": {"", "gone", "", "gone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(podNameVariable, tt.pod)
			got, err := (&BundleOptions{Image: tt.flag}).image(t.Context(), c, d.Namespace)
			if got != tt.want || (err == nil) != (tt.failure == "") || err != nil && (!strings.Contains(err.Error(), tt.failure) || !strings.Contains(err.Error(), "--bundle-image")) {
				t.Errorf("got %q and %v, want %q and an error with %q", got, err, tt.want, tt.failure)
			}
		})
	}
}
