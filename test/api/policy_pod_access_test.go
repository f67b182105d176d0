// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"testing"
	"time"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"botbottle.dev/bottle-operator/internal/placeholder"
)

// Whoever may enter Pods may not enter those of Bottles, which have their credentials.
func TestTenantEntersPods(t *testing.T) {
	w := newTenants(t)
	own, successor, other := w.placeholder(w.name()), w.placeholder(w.name()+"-2"), w.ordinary("bottle-mine-deadbeef-1")
	for _, pod := range []*corev1.Pod{own, successor, other} {
		must(t, w.admin.Create(t.Context(), pod))
	}
	// connect returns the answer of the API server, which reaches no kubelet here.
	connect := func(user, pod, subresource string) error {
		cfg := rest.CopyConfig(w.cfg)
		cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:authenticated"}}
		return kubernetes.NewForConfigOrDie(cfg).CoreV1().RESTClient().Post().Namespace(w.ns).Resource("pods").Name(pod).SubResource(subresource).
			Param("command", "/bottle-guest").Param("ports", "8888").Param("stdout", "true").Do(t.Context()).Error()
	}
	owner := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "owner"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"botbottle.dev"}, Resources: []string{"bottles/finalizers"}, Verbs: []string{"update"}},
	}}
	must(t, w.admin.Create(t.Context(), owner))
	w.user("owner", rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "owner"}, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "pods"})
	tenant, permitted := "tenant@"+w.ns, "owner@"+w.ns
	for _, subresource := range []string{"exec", "attach", "portforward"} {
		t.Run(subresource, func(t *testing.T) {
			for _, pod := range []*corev1.Pod{own, successor} {
				gomega.NewWithT(t).Eventually(func() error { return connect(tenant, pod.Name, subresource) }, 20*time.Second, 50*time.Millisecond).
					Should(gomega.MatchError(gomega.ContainSubstring("has its credentials")))
				wantForbidden(t, connect(tenant, pod.Name, subresource), "use kubectl bottle exec")
				wantNotForbidden(t, connect(permitted, pod.Name, subresource))
			}
			wantNotForbidden(t, connect(tenant, other.Name, subresource))
		})
	}
}

// wantNotForbidden fails the test if the API server refused the request. There is no
// kubelet, so every request fails.
func wantNotForbidden(t *testing.T, err error) {
	t.Helper()
	if err == nil || apierrors.IsForbidden(err) {
		t.Errorf("got %v, want the request to fail for want of a kubelet only", err)
	}
}

// name is the name of the Bottle's placeholder.
func (w *tenants) name() string { return placeholder.Name(w.bottle) }
