// SPDX-License-Identifier: Apache-2.0

package uninstall_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/controllers/uninstall"
	"botbottle.dev/bottle-operator/test/api/apienv"
)

// Something that replaces objects whole, such as "kubectl replace", removes the mark and
// the finalizers.
func TestTheMarkIsRestored(t *testing.T) {
	w := newWorld(t)
	w.start()
	b := w.createBottle("restored")
	w.eventually("the CRD is marked", func() bool { return w.mark() == apienv.SystemNamespace })
	w.patchCRD(`{"metadata":{"annotations":{"botbottle.dev/in-use":null}}}`)
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "bottle-uninstall"}}
	w.must(w.c.Patch(t.Context(), policy, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
	w.eventually("both are back", func() bool {
		w.must(w.c.Get(t.Context(), client.ObjectKeyFromObject(policy), policy))
		return w.mark() == apienv.SystemNamespace && slices.Contains(policy.Finalizers, v1alpha1.InUse)
	})
	w.removeBottle(b)
	w.eventually("the mark goes with the last Bottle", func() bool { return w.mark() == "" && !w.held() })
}

// No manager runs any more, and the mark is still there.
func TestCheckRemovesAMarkThatIsLeft(t *testing.T) {
	w := newWorld(t)
	stop := w.start()
	b := w.createBottle("left")
	w.eventually("the CRD is marked", func() bool { return w.mark() == apienv.SystemNamespace })
	stop()
	w.waitForPolicy()
	if err := uninstall.Check(t.Context(), w.c); err == nil || !strings.Contains(err.Error(), "default/left") || !strings.Contains(err.Error(), "kubectl delete bottles") {
		t.Errorf("while a Bottle exists: got %v, want its name and what to do", err)
	}
	w.removeBottle(b)
	if err := w.c.Delete(t.Context(), w.crd(), client.DryRunAll); !apierrors.IsForbidden(err) {
		t.Errorf("delete the CRD without a manager: got %v, want it refused", err)
	}
	w.must(uninstall.Check(t.Context(), w.c))
	if w.mark() != "" || w.held() {
		t.Errorf("got the mark %q, policies held: %t, want neither", w.mark(), w.held())
	}
	w.must(w.c.Delete(t.Context(), w.crd(), client.DryRunAll))
	w.must(uninstall.Check(t.Context(), w.c))
}

// While the CRD is being deleted, no Bottle is placed: nobody could delete that Bottle in
// an orderly way later.
func TestNothingIsHeldWhileTheCRDIsDeleted(t *testing.T) {
	w := newWorld(t)
	b := w.createBottle("late")
	w.must(w.c.Delete(t.Context(), w.crd()))
	g := uninstall.New(w.c, w.c, apienv.SystemNamespace)
	if err := g.Hold(t.Context()); err == nil || !strings.Contains(err.Error(), "is being deleted") {
		t.Errorf("got %v, want an error that says that the CRD is being deleted", err)
	}
	w.must(w.c.Patch(t.Context(), b, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))))
	w.awaitNoCRD()
	w.must(uninstall.Check(t.Context(), w.c)) // without a CRD there are no Bottles
	w.installCRD()
}

// The deletion of the CRD begins at the same moment as the write of the mark. Never do
// both succeed.
func TestMarkAndDeletionAtTheSameMoment(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		deleted := make(chan error, 1)
		c := interceptor.NewClient(w.c, interceptor.Funcs{
			Patch: func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, opts ...client.PatchOption) error {
				if o.GetName() == uninstall.CRDName {
					go func() { deleted <- w.c.Delete(t.Context(), w.crd()) }()
				}
				return c.Patch(ctx, o, patch, opts...)
			},
		})
		held := uninstall.New(c, c, apienv.SystemNamespace).Hold(t.Context())
		switch err := <-deleted; {
		case held == nil && apierrors.IsForbidden(err):
			w.must(uninstall.Check(t.Context(), w.c))
		case held != nil && err == nil:
			w.awaitNoCRD()
			w.must(uninstall.Check(t.Context(), w.c))
			w.installCRD()
		default:
			t.Fatalf("got %v from Hold and %v from the deletion, want exactly one to succeed", held, err)
		}
	}
}

// Each policy is held, and the manager's role permits that for each by name.
func TestEveryPolicyIsHeld(t *testing.T) {
	objects, err := apienv.Manifests("config/policy", "config/rbac")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{}
	var permitted []string
	for _, o := range objects {
		switch o.GetKind() {
		case "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding":
			want[o.GetKind()] = append(want[o.GetKind()], o.GetName())
		case "ClusterRole":
			role := &rbacv1.ClusterRole{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, role); err != nil {
				t.Fatal(err)
			}
			for _, rule := range role.Rules {
				if role.Name == "bottle-manager" && slices.Contains(rule.APIGroups, "admissionregistration.k8s.io") && slices.Contains(rule.Verbs, "patch") {
					permitted = append(permitted, rule.ResourceNames...)
				}
			}
		}
	}
	for kind, names := range want {
		if slices.Sort(names); !slices.Equal(names, uninstall.Policies()) {
			t.Errorf("%s: got %v in config/policy, want those that are held: %v", kind, names, uninstall.Policies())
		}
	}
	if slices.Sort(permitted); len(want) != 2 || !slices.Equal(permitted, uninstall.Policies()) {
		t.Errorf("got %v in the manager's role, want %v", permitted, uninstall.Policies())
	}
}
