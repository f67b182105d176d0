// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/builders"
)

func bottleIn(t *testing.T, c client.Client, ns, name string) *v1alpha1.Bottle {
	t.Helper()
	b := builders.MakeBottle(name).Namespace(ns).Env("A", "b").Obj()
	if err := c.Create(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return b
}

// place writes a status that puts a Bottle on a node.
func place(t *testing.T, c client.Client, b *v1alpha1.Bottle, node string) {
	t.Helper()
	restarts := int32(2)
	b.Status.NodeName = &node
	b.Status.Network = &v1alpha1.NetworkStatus{Subnet: "192.168.44.0/24", Gateway: "192.168.44.1", BundleIP: "192.168.44.2"}
	b.Status.Machine = &v1alpha1.MachineStatus{Name: "bottle-a-12345678", Restarts: &restarts}
	b.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse,
		Reason: v1alpha1.ReasonProving, Message: "a proof is in progress", LastTransitionTime: metav1.Now()}}
	if err := c.Status().Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// An agent can list only its own Bottles.
func TestSelectableField(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	ns := apienv.Namespace(t, c)
	for name, node := range map[string]string{"a": "node-a", "b": "node-b", "c": ""} {
		b := bottleIn(t, c, ns, name)
		if node != "" {
			place(t, c, b, node)
		}
	}
	list := &v1alpha1.BottleList{}
	if err := c.List(t.Context(), list, client.InNamespace(ns), client.MatchingFields{"status.nodeName": "node-a"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range list.Items {
		got = append(got, b.Name)
	}
	if diff := cmp.Diff([]string{"a"}, got); diff != "" {
		t.Errorf("Bottles of node-a (-want +got):\n%s", diff)
	}
}

func TestPrinterColumns(t *testing.T) {
	cfg := apienv.Start(t)
	c := apienv.Client(t, cfg)
	ns := apienv.Namespace(t, c)
	place(t, c, bottleIn(t, c, ns, "a"), "node-a")

	cfg.APIPath, cfg.GroupVersion = "/apis", &v1alpha1.GroupVersion
	cfg.NegotiatedSerializer = codecs()
	rc, err := rest.RESTClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	data, err := rc.Get().Namespace(ns).Resource("bottles").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	table := &metav1.Table{}
	if err := json.Unmarshal(data, table); err != nil {
		t.Fatal(err)
	}
	var columns []string
	for _, col := range table.ColumnDefinitions {
		columns = append(columns, col.Name)
	}
	if diff := cmp.Diff([]string{"Name", "Slug", "Node", "Bundle IP", "Ready", "Reason", "Restarts", "Age"}, columns); diff != "" {
		t.Fatalf("columns (-want +got):\n%s", diff)
	}
	if len(table.Rows) != 1 {
		t.Fatalf("got %d rows, want 1", len(table.Rows))
	}
	want := []any{"a", "a", "node-a", "192.168.44.2", "False", "Proving", float64(2)}
	if diff := cmp.Diff(want, table.Rows[0].Cells[:7]); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
}

func TestSamplesApplyTwiceWithoutDiff(t *testing.T) {
	c := client.WithFieldValidation(apienv.Client(t, apienv.Start(t)), "Strict")
	ns := apienv.Namespace(t, c)
	samples, err := apienv.Manifests("config/samples")
	if err != nil {
		t.Fatal(err)
	}
	bottles := map[string]bool{}
	for _, s := range samples {
		if s.GetKind() == "Bottle" {
			bottles[s.GetName()] = true
		}
		t.Run(s.GetKind()+"/"+s.GetName(), func(t *testing.T) {
			s.SetNamespace(ns)
			if o := apply(t, c, s); s.GetKind() == "Bottle" {
				// Until the manager has written a status, each write stores the default one.
				status := client.RawPatch(types.MergePatchType, []byte(`{"status":{"conditions":[]}}`))
				if err := c.Status().Patch(t.Context(), o, status); err != nil {
					t.Fatal(err)
				}
			}
			first, second := apply(t, c, s), apply(t, c, s)
			if diff := cmp.Diff(first.Object, second.Object); diff != "" {
				t.Errorf("the second server-side apply changed something (-first +second):\n%s", diff)
			}
		})
	}
	for _, name := range []string{"minimal", "full", "claude-code", "codex", "gemini-cli", "openhands", "aider"} {
		if !bottles[name] {
			t.Errorf("got the sample Bottles %v, want %s among them", bottles, name)
		}
	}
}

// Applying a manifest again changes nothing, even after controllers wrote to the
// Bottle.
func TestApplyAfterStatusWithoutDiff(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	ns := apienv.Namespace(t, c)
	manifest := manifestOf(t, builders.MakeBottle("a").Namespace(ns).Env("B", "2").Env("A", "1").
		BundlePorts(8888, 9418).Allow("b.example", "a.example").Memory("1024Mi").Obj())
	apply(t, c, manifest)
	b := &v1alpha1.Bottle{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "a"}, b); err != nil {
		t.Fatal(err)
	}
	place(t, c, b, "node-a")
	again := apply(t, c, manifest)
	if got, want := again.GetResourceVersion(), b.ResourceVersion; got != want {
		t.Errorf("got resourceVersion %s after the second apply, want %s", got, want)
	}
	if got, want := again.GetGeneration(), int64(1); got != want {
		t.Errorf("got generation %d, want %d", got, want)
	}
}

func TestStatusIsASubresource(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	b := bottleIn(t, c, apienv.Namespace(t, c), "a")
	node := "node-a"
	b.Status.NodeName = &node
	if err := c.Update(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if b.Status.NodeName != nil {
		t.Errorf("got nodeName %q written by an update of the Bottle, want the status unchanged", *b.Status.NodeName)
	}
}

func TestKustomizationsApply(t *testing.T) {
	c := apienv.Client(t, apienv.Start(t))
	for _, folder := range []string{"config/default", "config/dev"} {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			objects, err := apienv.ParseManifests(kustomize(t, folder))
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range objects {
				err := c.Apply(context.WithoutCancel(t.Context()), client.ApplyConfigurationFromUnstructured(o),
					client.FieldOwner("kubectl"), client.ForceOwnership, client.DryRunAll)
				if err != nil {
					t.Errorf("apply %s %s: %v", o.GetKind(), o.GetName(), err)
				}
			}
		})
	}
}

func apply(t *testing.T, c client.Client, u *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	u = u.DeepCopy()
	if err := c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("kubectl")); err != nil {
		t.Fatal(err)
	}
	return u
}
