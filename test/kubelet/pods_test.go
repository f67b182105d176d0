// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	podImage = "example.test/bottle-guest:1" // busybox
	podPort  = "8080"
)

// pods are two Pods that serve their names, and a Service for one of them.
type pods struct {
	*world
	client, server *corev1.Pod
	service        *corev1.Service
}

func serverPod(ns, name string) *corev1.Pod {
	zero := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &zero,
			Containers: []corev1.Container{{
				Name: "web", Image: podImage, ImagePullPolicy: corev1.PullNever,
				Command: []string{"sh", "-c", "mkdir /www && echo pod " + name + " >/www/index.html && exec httpd -f -p " + podPort + " -h /www"},
			}},
		},
	}
}

func (w *world) startPods(t *testing.T) {
	p := &pods{world: w, client: serverPod(w.ns, "client"), server: serverPod(w.ns, "server")}
	p.service = &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "server"},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "server"},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.Parse(podPort)}},
		},
	}
	for _, o := range []client.Object{p.client, p.server, p.service} {
		if err := w.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	for _, pod := range []*corev1.Pod{p.client, p.server} {
		w.Eventually(t, "Pod "+pod.Name+" to run", func() (string, bool) {
			err := w.Get(t.Context(), client.ObjectKeyFromObject(pod), pod)
			return fmt.Sprint(pod.Status.Phase, pod.Status.ContainerStatuses, err), err == nil && ready(pod)
		})
	}
	w.pods = p
	p.wantTraffic(t)
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// wantTraffic checks that the Pods reach each other, the Service and the API server, and
// that the node reaches them.
func (p *pods) wantTraffic(t *testing.T) {
	t.Helper()
	server := p.server.Status.PodIP + ":" + podPort
	for _, from := range []struct{ who, what, target string }{
		{"Pod", "Pod", server},
		{"Pod", "Service", p.service.Spec.ClusterIP},
		{"node", "Pod", server},
		{"node", "Service", p.service.Spec.ClusterIP},
	} {
		p.Eventually(t, from.who+" to reach the "+from.what, func() (string, bool) {
			var out string
			if from.who == "node" {
				out = p.TryExec(t, node, "timeout", "10", "busybox", "wget", "-qO-", "http://"+from.target).Stdout
			} else {
				out, _ = p.Kubectl(nil, "-n", p.ns, "exec", p.client.Name, "--", "wget", "-T", "10", "-qO-", "http://"+from.target)
			}
			return out, strings.TrimSpace(out) == "pod server"
		})
	}
	// The API server's Service leads off the node.
	p.Eventually(t, "a Pod to reach the API server", func() (string, bool) {
		out, err := p.Kubectl(nil, "-n", p.ns, "exec", p.client.Name, "--", "nc", "-w", "10", "10.96.0.1", "443")
		return out, err == nil
	})
}
