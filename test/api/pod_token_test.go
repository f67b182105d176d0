// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/test/api/apienv"
)

// podAgent returns a client with a token like the one that the kubelet of a node projects
// into the agent's Pod there. It creates the Node and the Pod.
func podAgent(t *testing.T, admin client.Client, node string) client.Client {
	t.Helper()
	must(t, admin.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: apienv.SystemNamespace, Name: "bottle-agent-" + node}, Spec: corev1.PodSpec{
		NodeName: node, ServiceAccountName: "bottle-agent", Containers: []corev1.Container{{Name: "agent", Image: "agent"}},
	}}
	must(t, admin.Create(t.Context(), pod))
	t.Cleanup(func() { _ = admin.Delete(t.Context(), pod, client.GracePeriodSeconds(0)) })
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](3600),
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: "bottle-agent"}}
	must(t, admin.SubResource("token").Create(t.Context(), account, request))
	cfg := rest.AnonymousClientConfig(apienv.Start(t))
	cfg.BearerToken = request.Status.Token
	return apienv.Client(t, cfg)
}

// The token of an agent's Pod is bound to its Node too, so the policies for agents hold
// for it as for a token that an administrator made. But it requests no other token: that
// one would outlive the Pod.
func TestTokenOfAnAgentsPod(t *testing.T) {
	admin := apienv.Client(t, apienv.Start(t))
	agent := podAgent(t, admin, "pod-token-own")
	podAgent(t, admin, "pod-token-other")

	review := &authenticationv1.SelfSubjectReview{}
	must(t, agent.Create(t.Context(), review))
	for key, want := range map[string]string{"node-name": "pod-token-own", "pod-name": "bottle-agent-pod-token-own"} {
		if got := review.Status.UserInfo.Extra["authentication.kubernetes.io/"+key]; len(got) != 1 || got[0] != want {
			t.Errorf("got %s %v, want %s", key, got, want)
		}
	}
	label := func(node string) error {
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"botbottle.dev/agent":"ready"}}}`))
		return agent.Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, patch)
	}
	lease := func(node string) error {
		return agent.Create(t.Context(), &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: apienv.SystemNamespace, Name: "bottle-agent-" + node},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: ptr.To(node), LeaseDurationSeconds: ptr.To[int32](40)},
		}, client.DryRunAll)
	}
	for what, write := range map[string]func(string) error{"the Node's label": label, "the Lease": lease} {
		if err := write("pod-token-own"); err != nil {
			t.Errorf("%s of its own node: got %v, want it accepted", what, err)
		}
		if err := write("pod-token-other"); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
			t.Errorf("%s of another node: got %v, want it refused", what, err)
		}
	}
	own := &corev1.Node{}
	must(t, admin.Get(t.Context(), client.ObjectKey{Name: "pod-token-own"}, own))
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](3600),
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: own.Name, UID: own.UID}}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: apienv.SystemNamespace, Name: "bottle-agent"}}
	if err := agent.SubResource("token").Create(t.Context(), account, request); err == nil || !strings.Contains(err.Error(), "outlive the Pod") {
		t.Errorf("another token: got %v, want it refused because it would outlive the Pod", err)
	}
}
