// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/openapi"
	client "k8s.io/client-go/tools/remotecommand"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/await"
)

// Clients find the API, and its OpenAPI documents are complete: kube-apiserver merges
// them into its own, and namespaces cannot be deleted while discovery fails.
func TestDiscovery(t *testing.T) {
	t.Parallel()
	w := start(t)
	c, err := discovery.NewDiscoveryClientForConfig(w.as("alice"))
	must(t, err)
	groups, lists, err := c.ServerGroupsAndResources()
	must(t, err)
	if len(groups) != 1 || len(lists) != 1 || lists[0].GroupVersion != "subresources.botbottle.dev/v1alpha1" {
		t.Fatalf("got groups %v, lists %v", groups, lists)
	}
	got := map[string]string{}
	for _, r := range lists[0].APIResources {
		slices.Sort(r.Verbs)
		got[r.Name] = fmt.Sprintf("%s %v %s", r.Kind, r.Namespaced, strings.Join(r.Verbs, ","))
	}
	want := map[string]string{
		"bottles/exec":     "BottleAction true create,get",
		"bottles/attach":   "BottleAction true create,get",
		"bottles/log":      "BottleAction true get",
		"bottles/restart":  "BottleAction true create",
		"bottles/recreate": "BottleAction true create",
		"bottles/proof":    "BottleProof true create",
	}
	delete(got, "bottles")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
	document, err := c.OpenAPISchema()
	must(t, err)
	if n := len(document.GetPaths().GetPath()); n < 7 {
		t.Errorf("got %d paths in OpenAPI v2, want one for each resource", n)
	}
	var paths map[string]openapi.GroupVersion
	paths, err = c.OpenAPIV3().Paths()
	must(t, err)
	v3, err := paths["apis/subresources.botbottle.dev/v1alpha1"].Schema("application/json")
	must(t, err)
	if !strings.Contains(string(v3), "/bottles/{name}/proof") {
		t.Errorf("got OpenAPI v3 %.300s…, want a path for each resource", v3)
	}
	// The library finds the schema of an object by its kind, and complains in the log if
	// there is none.
	var schemas struct {
		Components struct {
			Schemas map[string]struct {
				Kinds []struct{ Version, Kind string } `json:"x-kubernetes-group-version-kind"`
			} `json:"schemas"`
		} `json:"components"`
	}
	must(t, json.Unmarshal(v3, &schemas))
	action := schemas.Components.Schemas["dev.botbottle.subresources.v1alpha1.BottleAction"]
	if len(action.Kinds) == 0 || action.Kinds[len(action.Kinds)-1].Kind != "BottleAction" {
		t.Errorf("got the schema %+v in OpenAPI v3, want one with its kind", action)
	}
}

// restart and recreate set an annotation of exactly the Bottle that was meant.
func TestActions(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj(), running("gone").Finalizer("test/keep").Deleted(time.Now()).Obj())
	read := func() *v1alpha1.Bottle {
		b := &v1alpha1.Bottle{}
		must(t, w.client.Get(t.Context(), ctrl.ObjectKey{Namespace: "default", Name: "a"}, b))
		return b
	}
	for verb, annotation := range map[string]string{"restart": v1alpha1.AnnotationRestartedAt, "recreate": v1alpha1.AnnotationRecreatedAt} {
		if code, body := w.do(w.as("alice"), http.MethodPost, path("a", verb)+"?dryRun=All", "{}"); code != http.StatusCreated || read().Annotations[annotation] != "" {
			t.Errorf("dry run of %s: got %d %s and annotations %v, want 201 and none", verb, code, body, read().Annotations)
		}
		if code, body := w.do(w.as("alice"), http.MethodPost, path("a", verb), `{"metadata":{"uid":"other"}}`); code != http.StatusConflict || read().Annotations[annotation] != "" {
			t.Errorf("%s of another UID: got %d %s, want 409", verb, code, body)
		}
		var values []string
		for range 2 {
			code, body := w.do(w.as("alice"), http.MethodPost, path("a", verb), `{"apiVersion":"subresources.botbottle.dev/v1alpha1","kind":"BottleAction"}`)
			done := subresources.BottleAction{}
			must(t, json.Unmarshal([]byte(body), &done))
			if code != http.StatusCreated || done.Kind != "BottleAction" || done.Name != "a" || done.UID != "uid-of-a" || done.RequestedAt == "" {
				t.Errorf("%s: got %d %s", verb, code, body)
			}
			if got := read().Annotations[annotation]; got != done.RequestedAt {
				t.Errorf("%s: got annotation %q, want %q", verb, got, done.RequestedAt)
			}
			values = append(values, done.RequestedAt)
		}
		if values[0] == values[1] {
			t.Errorf("%s twice: got the same value %q", verb, values[0])
		}
		if code, body := w.do(w.as("alice"), http.MethodPost, path("gone", verb), "{}"); code != http.StatusConflict {
			t.Errorf("%s of a deleted Bottle: got %d %s, want 409", verb, code, body)
		}
		if code, body := w.do(w.as("alice"), http.MethodPost, path("none", verb), "{}"); code != http.StatusNotFound {
			t.Errorf("%s of an absent Bottle: got %d %s, want 404", verb, code, body)
		}
	}
}

// The evidence of a proof is bounded and cleaned, and is about the Bottle that was
// asked for, whatever the agent says.
func TestProof(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj())
	said := subresources.BottleProof{Status: "Fine", Reason: "Proven", Message: strings.Repeat("\x1b[2J", 1000)}
	said.Name, said.Labels = "b", map[string]string{"planted": "true"}
	for range 100 {
		said.Targets = append(said.Targets, subresources.ProofTarget{Address: strings.Repeat("9", 500), Protocol: "TCP", Expected: "Refused", Observed: "Refused", By: "Canary"})
	}
	w.agent.set(func(a *agent) {
		a.answer = func(rw http.ResponseWriter, _ *http.Request) { must(t, json.NewEncoder(rw).Encode(said)) }
	})
	code, body := w.do(w.as("alice"), http.MethodPost, path("a", "proof"), "")
	got := subresources.BottleProof{}
	must(t, json.Unmarshal([]byte(body), &got))
	if code != http.StatusCreated || got.Name != "a" || got.Labels != nil || got.Status != metav1.ConditionUnknown || got.Reason != "Proven" || got.Kind != "BottleProof" {
		t.Errorf("got %d %.500s", code, body)
	}
	if len(got.Message) > maxMessage || strings.Contains(got.Message, "\x1b") || len(got.Targets) != maxProofTargets || len(got.Targets[0].Address) != maxProofWord {
		t.Errorf("got a message of %d bytes, %d targets, an address of %d bytes", len(got.Message), len(got.Targets), len(got.Targets[0].Address))
	}
	if r := w.agent.requests()[0]; r.Method != http.MethodPost || r.URL.Path != "/v1/bottles/default/a/uid-of-a/proof" {
		t.Errorf("the agent was asked %s %s", r.Method, r.URL.Path)
	}
	w.agent.set(func(a *agent) {
		a.answer = func(rw http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(rw, `{"message":%q}`, strings.Repeat("x", maxProof))
		}
	})
	if code, body := w.do(w.as("alice"), http.MethodPost, path("a", "proof"), ""); code != http.StatusServiceUnavailable {
		t.Errorf("an endless proof: got %d %.200s, want 503", code, body)
	}
}

// A copy from a finished Bottle asks for its machine and waits until it is open for
// files and proven.
func TestFiles(t *testing.T) {
	t.Parallel()
	done := running("a").Condition(condition(v1alpha1.ConditionFinished, metav1.ConditionTrue)).Obj()
	meta.SetStatusCondition(&done.Status.Conditions, condition(v1alpha1.ConditionMachineReady, metav1.ConditionFalse))
	w := start(t, done)
	w.agent.set(func(a *agent) { a.run = catAndExit })
	key := ctrl.ObjectKey{Namespace: "default", Name: "a"}
	q := query3("tar-out", "/work")
	q.Set("purpose", "Files")
	copied := make(chan error, 1)
	run := func() {
		copied <- w.execute("WebSocket", "alice", path("a", "exec"), q, client.StreamOptions{Stdin: strings.NewReader(""), Stdout: &strings.Builder{}, Stderr: &strings.Builder{}})
	}
	go run()
	b := &v1alpha1.Bottle{}
	await.True(t, "the machine is asked for", func() bool {
		must(t, w.client.Get(t.Context(), key, b))
		return b.Annotations[v1alpha1.AnnotationFilesAt] != ""
	})
	for _, c := range []string{v1alpha1.ConditionFilesOpen, v1alpha1.ConditionMachineReady, v1alpha1.ConditionEgressEnforced} {
		if got := w.agent.requests(); len(got) > 0 {
			t.Errorf("the agent was asked before %s is True", c)
		}
		must(t, w.client.Get(t.Context(), key, b))
		meta.SetStatusCondition(&b.Status.Conditions, condition(c, metav1.ConditionTrue))
		must(t, w.client.Status().Update(t.Context(), b))
	}
	if err := <-copied; err == nil || !strings.Contains(err.Error(), "42") {
		t.Errorf("got %v, want the exit code 42", err)
	}
	asked := b.Annotations[v1alpha1.AnnotationFilesAt]
	run() // the machine runs already
	if err := <-copied; err == nil || !strings.Contains(err.Error(), "42") {
		t.Errorf("got %v, want the exit code 42", err)
	}
	must(t, w.client.Get(t.Context(), key, b))
	if got := b.Annotations[v1alpha1.AnnotationFilesAt]; got != asked {
		t.Errorf("the machine was asked for again: %s, %s", asked, got)
	}
}

// A copy does not wait for ever, and not for a Bottle that is gone.
func TestFilesDoNotOpen(t *testing.T) {
	t.Parallel()
	finishedBottle := running("a").Condition(condition(v1alpha1.ConditionFinished, metav1.ConditionTrue)).Condition(condition(v1alpha1.ConditionFilesOpen, metav1.ConditionTrue)).Obj()
	w := start(t, finishedBottle)
	f := &files{find: &finder{reader: w.client}, annotate: &annotator{client: w.client, clock: clock.RealClock{}}, timeout: time.Millisecond}
	b := &v1alpha1.Bottle{}
	key := ctrl.ObjectKey{Namespace: "default", Name: "a"}
	must(t, w.client.Get(t.Context(), key, b))
	err := f.open(t.Context(), b)
	if err == nil || !strings.Contains(err.Error(), "EgressEnforced is Unknown") {
		t.Errorf("got %v, want a timeout that names EgressEnforced", err)
	}
	f.timeout = waitLong
	stopped := b.DeepCopy()
	stopped.Spec.DesiredState = v1alpha1.DesiredStateStopped
	if err := f.open(t.Context(), stopped); err == nil || !strings.Contains(err.Error(), "desiredState is Stopped") {
		t.Errorf("got %v, want an error that says that the Bottle is stopped", err)
	}
	must(t, w.client.Delete(t.Context(), b.DeepCopy()))
	err = f.open(t.Context(), b)
	if err == nil || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("got %v, want an error that says that the Bottle was deleted", err)
	}
}
