// SPDX-License-Identifier: Apache-2.0

// Package authz_test tries, on a running development cluster, what the cluster's
// users and nodes may do to each other. Each test signs in with a real token of the user
// or node that it plays, because impersonation would bypass what a token says about its
// holder. DEV_DIR names the cluster.
package authz_test

import (
	"context"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/test/story"
)

const (
	timeout = 90 * time.Second
	// agentAccount is the ServiceAccount of all agents.
	agentAccount = "bottle-agent"
)

func TestMain(m *testing.M) { story.Main(m) }

// connect returns the cluster under test, with the rights of system:masters. Use
// it to prepare and to look, not to try what somebody may do.
func connect(t *testing.T) *story.Cluster {
	t.Helper()
	return story.Connect(t, timeout)
}

// tokenClient returns a client that signs in with a token and nothing else.
func tokenClient(t *testing.T, token string) client.WithWatch {
	t.Helper()
	c, err := client.NewWithWatch(tokenConfig(t, token), client.Options{Scheme: connect(t).Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tokenConfig returns the configuration of a client that signs in with a token.
func tokenConfig(t *testing.T, token string) *rest.Config {
	t.Helper()
	full, err := clientcmd.BuildConfigFromFlags("", connect(t).Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg := rest.AnonymousClientConfig(full)
	cfg.BearerToken = token
	cfg.QPS, cfg.Burst = 100, 200
	return cfg
}

// accountToken returns a token of a ServiceAccount. If node is not "", the token
// is bound to that Node.
func accountToken(t *testing.T, namespace, account, node string) string {
	t.Helper()
	c := connect(t)
	spec := authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](3600)}
	if node != "" {
		n := &corev1.Node{}
		if err := c.Get(t.Context(), client.ObjectKey{Name: node}, n); err != nil {
			t.Fatal(err)
		}
		spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID}
	}
	request := &authenticationv1.TokenRequest{Spec: spec}
	owner := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}
	if err := c.SubResource("token").Create(t.Context(), owner, request); err != nil {
		t.Fatalf("token of %s/%s: %v", namespace, account, err)
	}
	return request.Status.Token
}

// agentOf returns a client with a token like that of the agent of a node.
func agentOf(t *testing.T, node string) client.WithWatch {
	t.Helper()
	return tokenClient(t, accountToken(t, connect(t).SystemNamespace(t), agentAccount, node))
}

// unboundAgent returns a client with a token of the agents' ServiceAccount that is
// bound to nothing.
func unboundAgent(t *testing.T) client.WithWatch {
	t.Helper()
	return tokenClient(t, accountToken(t, connect(t).SystemNamespace(t), agentAccount, ""))
}

// tenant returns a client of a user who has the role bottle-editor in one
// namespace, and may do anything to the Pods there.
func tenant(t *testing.T, namespace string) client.WithWatch {
	t.Helper()
	pods := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "tenant-pods"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch", "create", "update", "patch", "delete"}},
	}}
	create(t, pods)
	return user(t, namespace, "tenant",
		rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "bottle-editor"},
		rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: pods.Name})
}

// user returns a client of a ServiceAccount that has roles in its namespace. Roles
// that exist already are kept.
func user(t *testing.T, namespace, name string, roles ...rbacv1.RoleRef) client.WithWatch {
	t.Helper()
	create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}})
	for _, role := range roles {
		create(t, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name + "-" + role.Name}, RoleRef: role,
			Subjects: []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}},
		})
	}
	return tokenClient(t, accountToken(t, namespace, name, ""))
}

// admin returns a client of a cluster administrator. The administrator has the
// role cluster-admin and is not in system:masters, so that RBAC is asked.
func admin(t *testing.T, namespace string) client.WithWatch {
	t.Helper()
	c := connect(t)
	create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "administrator"}})
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "authz-administrator-" + namespace},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "administrator"}},
	}
	create(t, binding)
	t.Cleanup(func() {
		if err := client.IgnoreNotFound(c.Delete(context.Background(), binding)); err != nil {
			t.Error(err)
		}
	})
	return tokenClient(t, accountToken(t, namespace, "administrator", ""))
}

// create creates an object unless it exists.
func create(t *testing.T, o client.Object) {
	t.Helper()
	if err := connect(t).Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatalf("create %T %s: %v", o, client.ObjectKeyFromObject(o), err)
	}
}

// merge returns a JSON merge patch.
func merge(patch string) client.Patch { return client.RawPatch(types.MergePatchType, []byte(patch)) }

// wantAllowed fails the test unless err is nil.
func wantAllowed(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("got %v, want it allowed", err)
	}
}

// wantRefused fails the test unless err is the API server's refusal (by RBAC or by
// a policy) and contains all of words.
func wantRefused(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil || !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
		t.Errorf("got %v, want it refused", err)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("got %q, want a refusal that says %q", err, word)
		}
	}
}
