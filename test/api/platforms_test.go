// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/test/api/apienv"
)

// overlay renders config/default with components, and with further lines of a
// kustomization.
func overlay(t *testing.T, lines string, components ...string) []*unstructured.Unstructured {
	t.Helper()
	parent := t.TempDir()
	relative, err := filepath.Rel(parent, filepath.Join(apienv.Root(), "config"))
	must(t, err)
	text := lines + "resources: [" + filepath.Join(relative, "default") + "]\ncomponents:\n"
	for _, c := range components {
		text += "  - " + filepath.Join(relative, "components", c) + "\n"
	}
	must(t, os.WriteFile(filepath.Join(parent, "kustomization.yaml"), []byte(text), 0o600))
	objects, err := apienv.ParseManifests(kustomizeFolder(t, parent))
	must(t, err)
	return objects
}

// fields returns the path and the value of every field of this name in an object.
func fields(name, path string, value any) (found []string) {
	switch value := value.(type) {
	case map[string]any:
		for key, field := range value {
			if key == name {
				found = append(found, fmt.Sprintf("%s.%s=%v", path, key, field))
			}
			found = append(found, fields(name, path+"."+key, field)...)
		}
	case []any:
		for i, item := range value {
			found = append(found, fields(name, fmt.Sprintf("%s[%d]", path, i), item)...)
		}
	}
	return found
}

// GKE, and any cluster with a quota for them, refuses the priority classes of Kubernetes
// outside kube-system, except in a namespace with a quota that permits them. So what we
// install asks for a class only together with such a quota.
func TestPriorityClassesByDefault(t *testing.T) {
	for _, folder := range []string{"config/default", "config/dev", "config/samples"} {
		objects, err := apienv.ParseManifests(kustomize(t, folder))
		must(t, err)
		permitted := map[string]bool{}
		for _, o := range objects {
			if o.GetKind() != "ResourceQuota" {
				continue
			}
			q := &corev1.ResourceQuota{}
			must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, q))
			for _, scope := range q.Spec.ScopeSelector.MatchExpressions {
				for _, class := range scope.Values {
					permitted["priorityClassName="+class+" in "+q.Namespace] = scope.ScopeName == corev1.ResourceQuotaScopePriorityClass
				}
			}
		}
		for _, o := range objects {
			if o.GetKind() == "CustomResourceDefinition" {
				continue
			}
			for _, field := range fields("priorityClassName", "", o.Object) {
				_, field, _ = strings.Cut(field, "priorityClassName=")
				if !permitted["priorityClassName="+field+" in "+o.GetNamespace()] {
					t.Errorf("%s: got %s in %s %s, want a quota in its namespace that permits it", folder, field, o.GetKind(), o.GetName())
				}
			}
		}
	}
}

// The component priority-class gives the manager a class, and its namespace the quota that
// GKE asks for, also in another namespace.
func TestPriorityClassComponent(t *testing.T) {
	objects := overlay(t, "namespace: elsewhere\n", "priority-class")
	d, q := &appsv1.Deployment{}, &corev1.ResourceQuota{}
	apienv.Find(t, objects, "Deployment", d)
	for _, o := range objects {
		if o.GetKind() == "ResourceQuota" && o.GetName() == "bottle-manager-priority" {
			must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, q))
		}
	}
	if got := d.Spec.Template.Spec.PriorityClassName; got != "system-cluster-critical" {
		t.Errorf("got priority class %q, want system-cluster-critical", got)
	}
	if q.Namespace != "elsewhere" || q.Namespace != d.Namespace {
		t.Errorf("got a quota in %q for a Deployment in %q, want both in elsewhere", q.Namespace, d.Namespace)
	}
	scope := q.Spec.ScopeSelector.MatchExpressions
	if len(scope) != 1 || scope[0].ScopeName != corev1.ResourceQuotaScopePriorityClass || scope[0].Operator != corev1.ScopeSelectorOpIn || len(scope[0].Values) != 1 || scope[0].Values[0] != d.Spec.Template.Spec.PriorityClassName {
		t.Errorf("got a quota for %v, want one for the Deployment's class", scope)
	}
	if pods := q.Spec.Hard[corev1.ResourcePods]; pods.Value() <= int64(*d.Spec.Replicas) {
		t.Errorf("got a quota of %s Pods for %d replicas, want room for an update", pods.String(), *d.Spec.Replicas)
	}
	c := apienv.Client(t, apienv.Start(t))
	q.Namespace = apienv.Namespace(t, c)
	must(t, c.Create(t.Context(), q, client.DryRunAll))
}

// With the component openshift, nothing in the manager's Pod fixes a user, and
// PodSecurity's level restricted still accepts it.
func TestOpenShiftComponent(t *testing.T) {
	objects := overlay(t, "", "openshift")
	for _, o := range objects {
		for _, name := range []string{"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups", "seLinuxOptions"} {
			if got := fields(name, o.GetKind()+" "+o.GetName(), o.Object); o.GetKind() == "Deployment" && len(got) > 0 {
				t.Errorf("got %v, want OpenShift to choose", got)
			}
		}
	}
	d := &appsv1.Deployment{}
	apienv.Find(t, objects, "Deployment", d)
	c := apienv.Client(t, apienv.Start(t))
	if err := createRestricted(t, c, d.Spec.Template); err != nil {
		t.Errorf("got %v for the Deployment's Pod, want it accepted", err)
	}
}

// What config/argocd renders adds the health of Bottles to Argo CD's settings and leaves
// the other settings alone.
func TestArgoCDHealthIsInstalled(t *testing.T) {
	const key = "resource.customizations.health.botbottle.dev_Bottle"
	objects, err := apienv.ParseManifests(kustomize(t, "config/argocd"))
	must(t, err)
	rendered := &corev1.ConfigMap{}
	apienv.Find(t, objects, "ConfigMap", rendered)
	script, err := os.ReadFile(filepath.Join(apienv.Root(), "config/argocd/health.lua"))
	must(t, err)
	if rendered.Namespace != "argocd" || rendered.Name != "argocd-cm" || rendered.Data[key] != string(script) {
		t.Errorf("got ConfigMap %s/%s with the keys %v, want argocd/argocd-cm with the script as %s", rendered.Namespace, rendered.Name, rendered.Data, key)
	}
	c := apienv.Client(t, apienv.Start(t))
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: apienv.Namespace(t, c), Name: "argocd-cm"}, Data: map[string]string{"url": "https://argocd.example.com"}}
	must(t, c.Create(t.Context(), settings))
	objects[0].SetNamespace(settings.Namespace)
	must(t, c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(objects[0]), client.FieldOwner("bottle-operator")))
	must(t, c.Get(t.Context(), client.ObjectKeyFromObject(settings), settings))
	if settings.Data["url"] == "" || !strings.Contains(settings.Data[key], "obj.metadata.deletionTimestamp") {
		t.Errorf("got %v, want the earlier setting and the script", settings.Data)
	}
}
