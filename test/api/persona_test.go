// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onsi/gomega"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"botbottle.dev/bottle-operator/test/api/apienv"
)

// What the roles for users permit, as the API server's RBAC decides it.
func TestPersonas(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	ns := apienv.Namespace(t, c)
	const own, access = "botbottle.dev", "subresources.botbottle.dev"
	all := []string{"bottle-viewer", "bottle-editor", "bottle-access"}
	for _, role := range all {
		must(t, c.Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: role},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "user-of-" + role}},
		}))
	}
	for _, tc := range []struct {
		group, resource, subresource string
		verbs                        []string
		roles                        []string // that permit it
	}{
		{own, "bottles", "", []string{"get", "list", "watch"}, all},
		{own, "bottles", "", []string{"create", "update", "patch", "delete", "deletecollection"}, []string{"bottle-editor"}},
		{own, "bottles", "status", []string{"get"}, []string{"bottle-viewer"}},
		{own, "bottles", "status", []string{"update", "patch"}, nil},
		{own, "bottles", "finalizers", []string{"update"}, nil},
		{access, "bottles", "log", []string{"get"}, all},
		{access, "bottles", "log", []string{"create"}, nil},
		{access, "bottles", "exec", []string{"get", "create"}, []string{"bottle-access"}},
		{access, "bottles", "attach", []string{"get", "create"}, []string{"bottle-access"}},
		{access, "bottles", "restart", []string{"create"}, []string{"bottle-editor"}},
		{access, "bottles", "recreate", []string{"create"}, []string{"bottle-editor"}},
		{access, "bottles", "proof", []string{"create"}, []string{"bottle-editor"}},
		{access, "bottleenvironments", "", []string{"get", "list", "watch"}, nil},
		{"", "secrets", "", []string{"get", "list", "watch"}, nil},
	} {
		for _, verb := range tc.verbs {
			for _, role := range all {
				review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
					User:               "user-of-" + role,
					ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Group: tc.group, Resource: tc.resource, Subresource: tc.subresource, Verb: verb},
				}}
				// RBAC takes a moment to learn of new bindings.
				want := slices.Contains(tc.roles, role)
				gomega.NewWithT(t).Eventually(func() bool {
					review := review.DeepCopy()
					must(t, c.Create(t.Context(), review))
					return review.Status.Allowed
				}, 20*time.Second, 50*time.Millisecond).Should(gomega.Equal(want), "%s: %s %s/%s", role, verb, tc.resource, tc.subresource)
			}
		}
	}
}

// Only bottle-access permits exec and attach, and no component adds it to a built-in role.
func TestAccessIsAggregatedIntoNothing(t *testing.T) {
	parent := t.TempDir()
	relative, err := filepath.Rel(parent, apienv.Root())
	must(t, err)
	components, err := filepath.Glob(filepath.Join(apienv.Root(), "config", "components", "*"))
	must(t, err)
	overlay := "resources: [" + filepath.Join(relative, "config", "default") + "]\ncomponents:\n"
	for _, c := range components {
		if filepath.Base(c) == "agent-metrics" {
			continue // the component monitoring contains it
		}
		overlay += "  - " + filepath.Join(relative, "config", "components", filepath.Base(c)) + "\n"
	}
	must(t, os.WriteFile(filepath.Join(parent, "kustomization.yaml"), []byte(overlay), 0o600))
	objects, err := apienv.ParseManifests(kustomizeFolder(t, parent))
	must(t, err)
	var roles []string
	aggregated := 0
	for _, o := range objects {
		if o.GetKind() != "ClusterRole" && o.GetKind() != "Role" {
			continue
		}
		role := &rbacv1.ClusterRole{}
		must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, role))
		labelled := role.AggregationRule != nil
		for label := range role.Labels {
			labelled = labelled || strings.Contains(label, "/aggregate-to-")
		}
		if labelled {
			aggregated++
		}
		if grantsAccess(role.Rules) {
			roles = append(roles, role.Name)
			if labelled {
				t.Errorf("%s: got it aggregated (%v), want it not", role.Name, role.Labels)
			}
		}
	}
	if !slices.Equal(roles, []string{"bottle-access"}) {
		t.Errorf("got exec or attach in %v, want it in bottle-access alone", roles)
	}
	if aggregated != 2 {
		t.Errorf("got %d aggregated roles, want bottle-viewer and, by the component, bottle-editor", aggregated)
	}
}

func grantsAccess(rules []rbacv1.PolicyRule) bool {
	return slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
		group := slices.ContainsFunc(r.APIGroups, func(g string) bool { return g == "*" || g == "subresources.botbottle.dev" })
		return group && slices.ContainsFunc(r.Resources, func(s string) bool {
			return strings.Contains(s, "*") || strings.HasSuffix(s, "/exec") || strings.HasSuffix(s, "/attach")
		})
	})
}

// The APIService leads to the Service, and that to the port of the Deployment.
func TestAPIService(t *testing.T) {
	objects, err := apienv.ParseManifests(kustomize(t, "config/default"))
	must(t, err)
	find := func(kind, name string) map[string]any {
		t.Helper()
		for _, o := range objects {
			if o.GetKind() == kind && o.GetName() == name {
				return o.Object
			}
		}
		t.Fatalf("got no %s %s, want one", kind, name)
		return nil
	}
	at := func(o map[string]any, path ...any) any {
		t.Helper()
		var v any = o
		for _, p := range path {
			switch p := p.(type) {
			case string:
				m, _ := v.(map[string]any)
				v = m[p]
			case int:
				list, _ := v.([]any)
				if p >= len(list) {
					return nil
				}
				v = list[p]
			}
		}
		return v
	}
	api := find("APIService", "v1alpha1.subresources.botbottle.dev")
	service := find("Service", "bottle-manager-access")
	if at(api, "spec", "service", "name") != "bottle-manager-access" || at(api, "spec", "service", "namespace") != at(service, "metadata", "namespace") ||
		at(api, "spec", "service", "port") != at(service, "spec", "ports", 0, "port") {
		t.Errorf("got %v, want it to lead to the Service", at(api, "spec", "service"))
	}
	if at(api, "spec", "caBundle") != nil || at(api, "spec", "insecureSkipTLSVerify") != nil {
		t.Errorf("got %v, want no caBundle, which the manager sets", at(api, "spec"))
	}
	pod, _ := at(find("Deployment", "bottle-manager"), "spec", "template").(map[string]any)
	if at(pod, "spec", "containers", 0, "ports", 0, "name") != at(service, "spec", "ports", 0, "targetPort") {
		t.Errorf("got target port %v, want the container's first", at(service, "spec", "ports", 0, "targetPort"))
	}
	labels, _ := at(pod, "metadata", "labels").(map[string]any)
	selector, _ := at(service, "spec", "selector").(map[string]any)
	for key, value := range selector {
		if labels[key] != value {
			t.Errorf("got selector %s=%v, want the Deployment's labels %v", key, value, labels)
		}
	}
	if len(selector) == 0 {
		t.Error("got no selector, want one")
	}
}
