// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/builders"
)

// tenants is a namespace with a tenant in it, who has the role bottle-editor and
// may do anything to Pods, and with a Bottle and its placeholder Pod.
type tenants struct {
	*testing.T
	cfg *rest.Config
	ns  string
	// admin is in system:masters. tenant is the namespace's user, manager and
	// agent are the operator's accounts.
	admin, tenant, manager, agent client.WithWatch
	bottle                        *v1alpha1.Bottle
	pod                           *corev1.Pod
}

func newTenants(t *testing.T) *tenants {
	t.Helper()
	cfg := apienv.Start(t)
	w := &tenants{T: t, cfg: cfg, admin: apienv.Client(t, cfg)}
	w.ns = apienv.Namespace(t, w.admin)
	w.manager = apienv.Client(t, apienv.AsServiceAccount(cfg, "bottle-manager"))
	w.agent = apienv.Client(t, apienv.AsAgent(cfg, "node-a"))
	pods := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "pods"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"bindings", "pods", "pods/attach", "pods/binding", "pods/ephemeralcontainers", "pods/eviction", "pods/exec", "pods/portforward", "pods/resize", "pods/status"}, Verbs: []string{"*"}},
	}}
	must(t, w.admin.Create(t.Context(), pods))
	w.tenant = w.user("tenant",
		rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "bottle-editor"},
		rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "pods"})
	w.bottle = builders.MakeBottle("mine").Namespace(w.ns).Finalizer(v1alpha1.FinalizerNode).Obj()
	must(t, w.admin.Create(t.Context(), w.bottle))
	w.pod = w.placeholder("placeholder")
	must(t, w.manager.Create(t.Context(), w.pod))

	// A policy takes effect a moment after its creation.
	gomega.NewWithT(t).Eventually(func() error {
		return w.tenant.Create(t.Context(), w.placeholder("probe"), client.DryRunAll)
	}, 20*time.Second, 50*time.Millisecond).Should(gomega.MatchError(gomega.ContainSubstring("bottles/finalizers")))
	gomega.NewWithT(t).Eventually(func() error {
		return w.tenant.Patch(t.Context(), w.bottle.DeepCopy(), mergePatch(`{"metadata":{"finalizers":null}}`), client.DryRunAll)
	}, 20*time.Second, 50*time.Millisecond).Should(gomega.MatchError(gomega.ContainSubstring("bottles/finalizers")))
	return w
}

// user returns a client of a user who has roles in the namespace.
func (w *tenants) user(name string, roles ...rbacv1.RoleRef) client.WithWatch {
	w.Helper()
	name += "@" + w.ns
	for _, role := range roles {
		binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, GenerateName: "user-"}, RoleRef: role,
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}}}
		must(w.T, w.admin.Create(w.Context(), binding))
	}
	return w.as(name)
}

func (w *tenants) as(name string, groups ...string) client.WithWatch {
	w.Helper()
	cfg := rest.CopyConfig(w.cfg)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: name, Groups: append(groups, "system:authenticated")}
	return apienv.Client(w.T, cfg)
}

// ordinary returns a Pod that has nothing to do with Bottles.
func (w *tenants) ordinary(name string) *corev1.Pod {
	requests := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name, Labels: map[string]string{"a": "b"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "x", Resources: corev1.ResourceRequirements{Requests: requests, Limits: requests},
		}}},
	}
}

// placeholder returns a Pod that the policies take for a placeholder Pod of the Bottle.
func (w *tenants) placeholder(name string) *corev1.Pod {
	pod := w.ordinary(name)
	pod.Labels[v1alpha1.LabelUID] = string(w.bottle.UID)
	pod.Annotations = map[string]string{v1alpha1.LabelName: w.bottle.Name}
	pod.Finalizers = []string{v1alpha1.FinalizerMachine}
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(w.bottle, v1alpha1.GroupVersion.WithKind("Bottle"))}
	return pod
}

func mergePatch(patch string) client.Patch {
	return client.RawPatch(types.MergePatchType, []byte(patch))
}

// wantAllowed fails the test unless err is nil.
func wantAllowed(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("got %v, want it allowed", err)
	}
}

// wantForbidden fails the test unless a policy refused the request and its message
// contains words.
func wantForbidden(t *testing.T, err error, words string) {
	t.Helper()
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "bottles/finalizers") || !strings.Contains(err.Error(), words) {
		t.Errorf("got %v, want it refused by a policy that says %q", err, words)
	}
}

// A tenant can create Pods, but none that is owned by a Bottle.
func TestTenantCreatesPods(t *testing.T) {
	w := newTenants(t)
	tests := map[string]func(pod *corev1.Pod){
		"a whole placeholder": func(*corev1.Pod) {},
		"on a node of choice": func(pod *corev1.Pod) { pod.Spec.NodeName = "control-plane" },
		"without requests":    func(pod *corev1.Pod) { pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{} },
		"the finalizer alone": func(pod *corev1.Pod) { pod.OwnerReferences = nil },
		"another finalizer of ours": func(pod *corev1.Pod) {
			pod.OwnerReferences, pod.Finalizers = nil, []string{"botbottle.dev/other"}
		},
		"the label alone, as agents find placeholders": func(pod *corev1.Pod) {
			pod.OwnerReferences, pod.Finalizers, pod.Annotations = nil, nil, nil
			pod.Name = "bottle-mine-" + string(w.bottle.UID)[:8] + "-2"
		},
		"the owner alone": func(pod *corev1.Pod) { pod.Finalizers, pod.Labels, pod.Annotations = nil, nil, nil },
		"an owner that does not control": func(pod *corev1.Pod) {
			pod.Finalizers, pod.OwnerReferences[0].Controller, pod.OwnerReferences[0].BlockOwnerDeletion = nil, nil, nil
		},
		"an owner of another version": func(pod *corev1.Pod) {
			pod.Finalizers, pod.OwnerReferences[0].APIVersion = nil, "botbottle.dev/v7"
		},
		"an owner of another kind in the group": func(pod *corev1.Pod) {
			pod.Finalizers, pod.OwnerReferences[0].Kind = nil, "bottle"
		},
		"a second owner": func(pod *corev1.Pod) {
			pod.Finalizers, pod.OwnerReferences[0].Controller = nil, nil
			pod.OwnerReferences = append([]metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"}}, pod.OwnerReferences...)
		},
		"more owners than can be checked": func(pod *corev1.Pod) {
			for range 200 {
				pod.OwnerReferences = append(pod.OwnerReferences, metav1.OwnerReference{APIVersion: "botbottle.dev/v1alpha1", Kind: "Bottle", Name: "x", UID: "x"})
			}
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			pod := w.placeholder("forged")
			change(pod)
			wantForbidden(t, w.tenant.Create(t.Context(), pod.DeepCopy(), client.DryRunAll), "may be created only by")
			wantAllowed(t, w.admin.Create(t.Context(), pod, client.DryRunAll))
		})
	}
	ordinary := w.ordinary("ordinary")
	ordinary.Finalizers = []string{"example.com/x"}
	ordinary.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"}}
	wantAllowed(t, w.tenant.Create(t.Context(), ordinary))
	for _, patch := range []string{
		`{"metadata":{"ownerReferences":[{"apiVersion":"botbottle.dev/v1alpha1","kind":"Bottle","name":"mine","uid":"` + string(w.bottle.UID) + `"}]}}`,
		`{"metadata":{"finalizers":["botbottle.dev/machine"]}}`,
		`{"metadata":{"labels":{"botbottle.dev/uid":"` + string(w.bottle.UID) + `"}}}`,
	} {
		wantForbidden(t, w.tenant.Patch(t.Context(), ordinary.DeepCopy(), mergePatch(patch), client.DryRunAll), "may be changed only by")
	}
	wantForbidden(t, w.tenant.Status().Patch(t.Context(), ordinary.DeepCopy(), mergePatch(`{"metadata":{"finalizers":["botbottle.dev/machine"]}}`), client.DryRunAll), "finalizer of a placeholder")
	wantAllowed(t, w.tenant.Patch(t.Context(), ordinary.DeepCopy(), mergePatch(`{"metadata":{"labels":{"botbottle.dev/other":"x"},"finalizers":null}}`), client.DryRunAll))
}

// A tenant who may change Pods cannot change what the manager reads from a
// placeholder Pod. Changes to anything else are allowed as RBAC permits.
func TestTenantChangesPlaceholders(t *testing.T) {
	w := newTenants(t)
	tests := map[string]struct {
		subresource string
		patch       string
		want        string // "" means allowed
	}{
		"the finalizer removed":            {"", `{"metadata":{"finalizers":null}}`, "finalizer of a placeholder Pod"},
		"the finalizer replaced":           {"", `{"metadata":{"finalizers":["botbottle.dev/other"]}}`, "finalizer of a placeholder Pod"},
		"the finalizer removed by status":  {"status", `{"metadata":{"finalizers":null}}`, "finalizer of a placeholder Pod"},
		"the owner removed":                {"", `{"metadata":{"ownerReferences":null}}`, "owner references"},
		"the owner no controller":          {"", `{"metadata":{"ownerReferences":[{"apiVersion":"botbottle.dev/v1alpha1","kind":"Bottle","name":"mine","uid":"` + string(w.bottle.UID) + `"}]}}`, "owner references"},
		"another owner":                    {"", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"x","controller":true}]}}`, "owner references"},
		"the label of the UID":             {"", `{"metadata":{"labels":{"botbottle.dev/uid":null}}}`, "labels and annotations"},
		"the label of the UID, by status":  {"status", `{"metadata":{"labels":{"botbottle.dev/uid":"x"}}}`, "labels and annotations"},
		"a new label of ours":              {"", `{"metadata":{"labels":{"botbottle.dev/x":"x"}}}`, "labels and annotations"},
		"the digest":                       {"", `{"metadata":{"annotations":{"botbottle.dev/placeholder-digest":"x"}}}`, "labels and annotations"},
		"the digest, by status":            {"status", `{"metadata":{"annotations":{"botbottle.dev/placeholder-digest":"x"}}}`, "labels and annotations"},
		"the name":                         {"", `{"metadata":{"annotations":{"botbottle.dev/name":null}}}`, "labels and annotations"},
		"the image":                        {"", `{"spec":{"containers":[{"name":"c","image":"y"}]}}`, "containers and resources"},
		"a deadline":                       {"", `{"spec":{"activeDeadlineSeconds":1}}`, "containers and resources"},
		"fewer resources":                  {"resize", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1m","memory":"1Mi"},"limits":{"cpu":"1m","memory":"1Mi"}}}]}}`, "containers and resources"},
		"more resources":                   {"resize", `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"9"},"limits":{"cpu":"9"}}}]}}`, "containers and resources"},
		"an ephemeral container":           {"ephemeralcontainers", `{"spec":{"ephemeralContainers":[{"name":"d","image":"y","terminationMessagePolicy":"File"}]}}`, "containers and resources"},
		"a label of its own":               {"", `{"metadata":{"labels":{"a":"c"},"annotations":{"x":"y"}}}`, ""},
		"a finalizer of its own":           {"", `{"metadata":{"finalizers":["botbottle.dev/machine","example.com/x"]}}`, ""},
		"a toleration":                     {"", `{"spec":{"tolerations":[{"key":"k","operator":"Exists","effect":"NoSchedule"}]}}`, ""},
		"a condition":                      {"status", `{"status":{"conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"no room"}]}}`, ""},
		"a phase":                          {"status", `{"status":{"phase":"Running"}}`, ""},
		"nothing":                          {"", `{}`, ""},
		"the owner removed by status":      {"status", `{"metadata":{"ownerReferences":null}}`, ""}, // the API server ignores it
		"the resources by the main object": {"status", `{"spec":{"activeDeadlineSeconds":1}}`, ""},  // likewise
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			patch := func(c client.Client) error {
				p := client.RawPatch(types.StrategicMergePatchType, []byte(tc.patch))
				if strings.HasPrefix(tc.patch, `{"metadata":{"finalizers":[`) || strings.HasPrefix(tc.patch, `{"metadata":{"ownerReferences":[`) {
					p = mergePatch(tc.patch) // a strategic patch would add to the list
				}
				if tc.subresource == "" {
					return c.Patch(t.Context(), w.pod.DeepCopy(), p, client.DryRunAll)
				}
				return c.SubResource(tc.subresource).Patch(t.Context(), w.pod.DeepCopy(), p, &client.SubResourcePatchOptions{PatchOptions: client.PatchOptions{DryRun: []string{metav1.DryRunAll}}})
			}
			wantAllowed(t, patch(w.admin)) // so that nothing but the policy refuses it
			if tc.want == "" {
				wantAllowed(t, patch(w.tenant))
			} else {
				wantForbidden(t, patch(w.tenant), tc.want)
			}
		})
	}
	got := &corev1.Pod{}
	must(t, w.admin.Get(t.Context(), client.ObjectKeyFromObject(w.pod), got))
	if len(got.OwnerReferences) != 1 {
		t.Errorf("got owners %v, want the Bottle", got.OwnerReferences)
	}
}

// The policies allow whatever RBAC permits, as long as it leaves what they guard on a
// placeholder Pod as it is.
func TestTenantRemovesPlaceholders(t *testing.T) {
	w := newTenants(t)
	binding := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"example.com/x": "y"}, Labels: map[string]string{"topology.kubernetes.io/zone": "a"}},
		Target:     corev1.ObjectReference{Kind: "Node", Name: "node-a"},
	}
	wantAllowed(t, w.tenant.SubResource("binding").Create(t.Context(), w.pod, binding))
	wantAllowed(t, w.tenant.SubResource("eviction").Create(t.Context(), w.pod.DeepCopy(), &policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}}))
	wantAllowed(t, w.tenant.Delete(t.Context(), w.pod, client.GracePeriodSeconds(0)))
	held := &corev1.Pod{}
	must(t, w.admin.Get(t.Context(), client.ObjectKeyFromObject(w.pod), held))
	if held.DeletionTimestamp.IsZero() || held.Spec.NodeName != "node-a" {
		t.Errorf("got deletion %v on %q, want the Pod bound and being deleted", held.DeletionTimestamp, held.Spec.NodeName)
	}
	wantForbidden(t, w.tenant.Patch(t.Context(), held.DeepCopy(), mergePatch(`{"metadata":{"finalizers":null}}`)), "finalizer of a placeholder Pod")
	wantAllowed(t, w.tenant.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(w.ns), client.GracePeriodSeconds(0)))
	wantAllowed(t, w.manager.Patch(t.Context(), held, mergePatch(`{"metadata":{"finalizers":null}}`)))
}

// The API server copies the labels and annotations of a Binding to the Pod. A
// tenant who may bind Pods cannot change ours in this way.
func TestTenantBindsPods(t *testing.T) {
	w := newTenants(t)
	node := corev1.ObjectReference{Kind: "Node", Name: "node-a"}
	for name, meta := range map[string]metav1.ObjectMeta{
		"the name":             {Annotations: map[string]string{v1alpha1.LabelName: "theirs"}},
		"the digest":           {Annotations: map[string]string{"botbottle.dev/placeholder-digest": "x"}},
		"the label of the UID": {Labels: map[string]string{v1alpha1.LabelUID: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			dryRun := &client.SubResourceCreateOptions{CreateOptions: client.CreateOptions{DryRun: []string{metav1.DryRunAll}}}
			wantForbidden(t, w.tenant.SubResource("binding").Create(t.Context(), w.pod, &corev1.Binding{ObjectMeta: meta, Target: node}, dryRun), "a Binding may give")
			wantAllowed(t, w.admin.SubResource("binding").Create(t.Context(), w.pod, &corev1.Binding{ObjectMeta: meta, Target: node}, dryRun))
			meta.Namespace, meta.Name = w.ns, w.pod.Name
			wantForbidden(t, w.tenant.Create(t.Context(), &corev1.Binding{ObjectMeta: meta, Target: node}, client.DryRunAll), "a Binding may give")
		})
	}
}

// The components of Kubernetes need no exception: they leave placeholder Pods as
// they are, or RBAC permits them everything.
func TestComponentsAndPlaceholders(t *testing.T) {
	w := newTenants(t)
	scheduler := w.as("system:kube-scheduler")
	wantAllowed(t, scheduler.SubResource("status").Patch(t.Context(), w.pod.DeepCopy(), client.RawPatch(types.StrategicMergePatchType,
		[]byte(`{"status":{"nominatedNodeName":"node-a","conditions":[{"type":"PodScheduled","status":"False"}]}}`))))
	wantAllowed(t, scheduler.SubResource("binding").Create(t.Context(), w.pod, &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "node-a"}}))
	for account, do := range map[string]func(c client.Client) error{
		"generic-garbage-collector": func(c client.Client) error {
			patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": w.pod.UID, "ownerReferences": []any{}}})
			must(t, err)
			return c.Patch(t.Context(), w.pod.DeepCopy(), mergePatch(string(patch)), client.DryRunAll)
		},
		"pod-garbage-collector": func(c client.Client) error {
			return c.Status().Patch(t.Context(), w.pod.DeepCopy(), mergePatch(`{"status":{"phase":"Failed"}}`), client.DryRunAll)
		},
		"namespace-controller": func(c client.Client) error {
			return c.DeleteAllOf(t.Context(), &corev1.Pod{}, client.InNamespace(w.ns), client.DryRunAll)
		},
	} {
		t.Run(account, func(t *testing.T) {
			wantAllowed(t, do(w.as("system:serviceaccount:kube-system:"+account, "system:serviceaccounts", "system:serviceaccounts:kube-system")))
		})
	}
}

// Our finalizers of a Bottle are written by the operator and by administrators.
func TestTenantAndFinalizers(t *testing.T) {
	w := newTenants(t)
	place(t, w.admin, w.bottle, "node-a") // whose agent writes the finalizer
	b := func() *v1alpha1.Bottle { return w.bottle.DeepCopy() }
	for name, patch := range map[string]string{
		"removed":  `{"metadata":{"finalizers":null}}`,
		"replaced": `{"metadata":{"finalizers":["example.com/x"]}}`,
		"another":  `{"metadata":{"finalizers":["botbottle.dev/node","botbottle.dev/other"]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			wantForbidden(t, w.tenant.Patch(t.Context(), b(), mergePatch(patch), client.DryRunAll), "leave them in metadata.finalizers")
			wantAllowed(t, w.admin.Patch(t.Context(), b(), mergePatch(patch), client.DryRunAll))
		})
	}
	replaced := b()
	replaced.Finalizers = nil
	wantForbidden(t, w.tenant.Update(t.Context(), replaced, client.DryRunAll), "use apply")
	added := builders.MakeBottle("added").Namespace(w.ns).Finalizer(v1alpha1.FinalizerNode).Obj()
	wantForbidden(t, w.tenant.Create(t.Context(), added, client.DryRunAll), "remove it from metadata.finalizers")

	wantAllowed(t, w.tenant.Patch(t.Context(), b(), mergePatch(`{"metadata":{"finalizers":["example.com/x","botbottle.dev/node"]}}`), client.DryRunAll))
	wantAllowed(t, w.tenant.Patch(t.Context(), b(), mergePatch(`{"spec":{"desiredState":"Stopped"}}`), client.DryRunAll))
	applied := builders.MakeBottle("mine").Namespace(w.ns).Env("A", "b").Obj()
	wantAllowed(t, w.tenant.Patch(t.Context(), applied, client.Apply, client.FieldOwner("gitops"), client.ForceOwnership)) //nolint:staticcheck // what GitOps tools send
	if len(applied.Finalizers) != 1 {
		t.Errorf("got finalizers %v after an apply, want the operator's", applied.Finalizers)
	}
	wantAllowed(t, w.tenant.Create(t.Context(), builders.MakeBottle("other").Namespace(w.ns).Obj()))
	wantAllowed(t, w.tenant.Delete(t.Context(), b()))
	wantForbidden(t, w.tenant.Patch(t.Context(), b(), mergePatch(`{"metadata":{"finalizers":null}}`)), "leave them in metadata.finalizers")
	wantAllowed(t, w.agent.Patch(t.Context(), b(), mergePatch(`{"metadata":{"finalizers":null}}`)))
}

// Whoever may update bottles/finalizers of one Bottle may write what the policies guard
// on this Bottle and its Pods, but not on another Bottle's Pods.
func TestFinalizersOfOneBottle(t *testing.T) {
	w := newTenants(t)
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "one"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{v1alpha1.GroupVersion.Group}, Resources: []string{"bottles/finalizers"}, ResourceNames: []string{"mine"}, Verbs: []string{"update"}},
	}}
	must(t, w.admin.Create(t.Context(), role))
	one := w.user("one",
		rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "bottle-editor"},
		rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "pods"},
		rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "one"})
	wantAllowed(t, one.Create(t.Context(), w.placeholder("made"), client.DryRunAll))
	wantAllowed(t, one.Patch(t.Context(), w.bottle.DeepCopy(), mergePatch(`{"metadata":{"finalizers":null}}`), client.DryRunAll))
	stolen := `{"metadata":{"ownerReferences":[{"apiVersion":"botbottle.dev/v1alpha1","kind":"Bottle","name":"theirs","uid":"x"}]}}`
	wantForbidden(t, one.Patch(t.Context(), w.pod.DeepCopy(), mergePatch(stolen), client.DryRunAll), "owner references")
	theirs := w.placeholder("theirs")
	theirs.OwnerReferences[0].Name = "theirs"
	wantForbidden(t, one.Create(t.Context(), theirs, client.DryRunAll), "may be created only by")
	bare := w.placeholder("bare")
	bare.OwnerReferences = nil
	wantForbidden(t, one.Create(t.Context(), bare, client.DryRunAll), "may be created only by")
}
