// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/api/apienv"
)

// config/policy permits the writes that an agent needs. It refuses the other
// writes that the rights in config/rbac would permit. The package test/authz tries
// the same with real tokens.
func TestAgentWrites(t *testing.T) {
	cfg := apienv.Start(t)
	c := apienv.Client(t, cfg)
	ns := apienv.Namespace(t, c)

	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "policy-", Labels: map[string]string{"zone": "a"}}}
	must(t, c.Create(t.Context(), node))
	t.Cleanup(func() { _ = c.Delete(t.Context(), node) })
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.9"}}
	node.Status.Capacity = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")}
	node.Status.Allocatable = node.Status.Capacity
	must(t, c.Status().Update(t.Context(), node))
	mine, free, foreign := bottleIn(t, c, ns, "mine"), bottleIn(t, c, ns, "free"), bottleIn(t, c, ns, "foreign")
	place(t, c, mine, node.Name)
	place(t, c, foreign, "node-b")
	mine.Status.Conditions = append(mine.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionScheduled, Status: metav1.ConditionTrue,
		Reason: v1alpha1.ReasonScheduled, Message: "kube-scheduler chose the node", LastTransitionTime: metav1.Now()})
	must(t, c.Status().Update(t.Context(), mine))

	owner := apienv.Client(t, apienv.AsAgent(cfg, node.Name))
	neighbour := apienv.Client(t, apienv.AsAgent(cfg, "node-b"))
	unbound := apienv.Client(t, apienv.AsServiceAccount(cfg, "bottle-agent"))
	agents := map[string]client.Client{"": owner, "neighbour": neighbour, "unbound": unbound}
	waitForPolicies(t, owner, node)

	const (
		ownNode   = "may write only its own Node"
		ownBottle = "may write only Bottles whose status.nodeName is its own node"
		noMeta    = "may change nothing of its Node's metadata"
		noStatus  = "may change nothing of its Node's status"
		noBottle  = "may change nothing of a Bottle's metadata"
		unboundly = "token is not bound to a Node"
	)
	tests := map[string]struct {
		agent  string // "" means the agent of the node
		object client.Object
		status bool
		patch  string
		want   string // "" means allowed
	}{
		"label":                   {"", node, false, `{"metadata":{"labels":{"botbottle.dev/agent":"ready"}}}`, ""},
		"no label":                {"", node, false, `{"metadata":{"labels":{"botbottle.dev/agent":null}}}`, ""},
		"capacity":                {"", node, true, `{"status":{"capacity":{"botbottle.dev/bottle":"250"},"allocatable":{"botbottle.dev/bottle":"250"}}}`, ""},
		"capacity removed":        {"", node, true, `{"status":{"capacity":{"botbottle.dev/bottle":null},"allocatable":{"botbottle.dev/bottle":null}}}`, ""},
		"cpu removed with it":     {"", node, true, `{"status":{"capacity":{"botbottle.dev/bottle":null,"cpu":null}}}`, "may change no resource except botbottle.dev/bottle"},
		"all capacity removed":    {"", node, true, `{"status":{"capacity":null,"allocatable":null}}`, "may change no resource except botbottle.dev/bottle"},
		"finalizer":               {"", mine, false, `{"metadata":{"finalizers":["botbottle.dev/node"]}}`, ""},
		"status":                  {"", mine, true, `{"status":{"machine":{"name":"x"}}}`, ""},
		"leaving":                 {"", mine, true, `{"status":{"nodeName":null,"machine":null}}`, ""},
		"another label":           {"", node, false, `{"metadata":{"labels":{"zone":"b"}}}`, "may change no label except botbottle.dev/agent"},
		"a label removed":         {"", node, false, `{"metadata":{"labels":{"zone":null}}}`, "may change no label except botbottle.dev/agent"},
		"a label with the status": {"", node, true, `{"metadata":{"labels":{"zone":"b"}}}`, noMeta},
		"a finalizer of the Node": {"", node, false, `{"metadata":{"finalizers":["botbottle.dev/node"]}}`, noMeta},
		"a taint":                 {"", node, false, `{"spec":{"taints":[{"key":"k","effect":"NoSchedule"}]}}`, "may change nothing of its Node except"},
		"cordon":                  {"", node, false, `{"spec":{"unschedulable":true}}`, "may change nothing of its Node except"},
		"another capacity":        {"", node, true, `{"status":{"capacity":{"cpu":"1000"}}}`, "may change no resource except botbottle.dev/bottle"},
		"another allocatable":     {"", node, true, `{"status":{"allocatable":{"cpu":"1000"}}}`, "may change no resource except botbottle.dev/bottle"},
		"a capacity removed":      {"", node, true, `{"status":{"capacity":{"cpu":null}}}`, "may change no resource except botbottle.dev/bottle"},
		"a condition":             {"", node, true, `{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`, noStatus},
		"conditions removed":      {"", node, true, `{"status":{"conditions":null}}`, noStatus},
		"an address":              {"", node, true, `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}]}}`, noStatus},
		"addresses removed":       {"", node, true, `{"status":{"addresses":null}}`, noStatus},
		"an endpoint":             {"", node, true, `{"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":1}}}}`, noStatus},
		"node info":               {"", node, true, `{"status":{"nodeInfo":{"kernelVersion":"x"}}}`, noStatus},
		"an image":                {"", node, true, `{"status":{"images":[{"names":["x"],"sizeBytes":1}]}}`, noStatus},
		"a volume attached":       {"", node, true, `{"status":{"volumesAttached":[{"name":"v","devicePath":"/dev/x"}]}}`, noStatus},
		"a volume in use":         {"", node, true, `{"status":{"volumesInUse":["v"]}}`, noStatus},
		"a runtime handler":       {"", node, true, `{"status":{"runtimeHandlers":[{"name":"x"}]}}`, noStatus},
		"a feature":               {"", node, true, `{"status":{"features":{"supplementalGroupsPolicy":true}}}`, noStatus},
		"an annotation":           {"", node, false, `{"metadata":{"annotations":{"a":"b"}}}`, noMeta},
		"annotation with status":  {"", node, true, `{"metadata":{"annotations":{"a":"b"}}}`, noMeta},
		"an owner":                {"", node, false, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"x","uid":"x"}]}}`, noMeta},
		"a Bottle's annotation":   {"", mine, false, `{"metadata":{"annotations":{"a":"b"}}}`, noBottle},
		"a Bottle's owner":        {"", mine, false, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"x","uid":"x"}]}}`, noBottle},
		"a Bottle's label":        {"", mine, false, `{"metadata":{"labels":{"a":"b"}}}`, noBottle},
		"a Bottle's spec":         {"", mine, false, `{"spec":{"env":[{"name":"A","value":"stolen"}]}}`, "may change nothing of a Bottle except"},
		"another finalizer":       {"", mine, false, `{"metadata":{"finalizers":["x.example/y"]}}`, "may change no finalizer except botbottle.dev/node"},
		"a Bottle's node changed": {"", mine, true, `{"status":{"nodeName":"node-b"}}`, "may clear a Bottle's node but may not set it"},
		"a Bottle's size":         {"", mine, true, `{"status":{"resources":{"cpus":16,"memory":"1Gi"}}}`, "what the manager reports"},
		"Scheduled":               {"", mine, true, scheduledFalse, "may not change the condition Scheduled"},
		"Scheduled removed":       {"", mine, true, `{"status":{"conditions":null}}`, "may not change the condition Scheduled"},
		"a free Bottle's node":    {"", free, true, `{"status":{"nodeName":"` + node.Name + `"}}`, ownBottle},
		"a free Bottle":           {"", free, false, `{"metadata":{"finalizers":["botbottle.dev/node"]}}`, ownBottle},

		"a neighbour's label":            {"neighbour", node, false, `{"metadata":{"labels":{"botbottle.dev/agent":"ready"}}}`, ownNode},
		"a neighbour's capacity":         {"neighbour", node, true, `{"status":{"capacity":{"botbottle.dev/bottle":"250"}}}`, ownNode},
		"a neighbour's capacity removed": {"neighbour", node, true, `{"status":{"capacity":{"botbottle.dev/bottle":null}}}`, ownNode},
		"a neighbour's Bottle":           {"neighbour", mine, true, `{"status":{"machine":{"name":"x"}}}`, ownBottle},
		"a neighbour's Bottle leaves":    {"neighbour", mine, true, `{"status":{"nodeName":null}}`, ownBottle},
		"a neighbour's Bottle taken":     {"neighbour", mine, true, `{"status":{"nodeName":"node-b"}}`, ownBottle},
		"a neighbour's Bottle evicted":   {"neighbour", mine, true, scheduledFalse, ownBottle},
		"a neighbour's Bottle finalizer": {"neighbour", mine, false, `{"metadata":{"finalizers":["botbottle.dev/node"]}}`, ownBottle},

		"unbound: label":     {"unbound", node, false, `{"metadata":{"labels":{"botbottle.dev/agent":"ready"}}}`, unboundly},
		"unbound: removal":   {"unbound", node, true, `{"status":{"capacity":{"botbottle.dev/bottle":null}}}`, unboundly},
		"unbound: capacity":  {"unbound", node, true, `{"status":{"capacity":{"botbottle.dev/bottle":"250"}}}`, unboundly},
		"unbound: finalizer": {"unbound", mine, false, `{"metadata":{"finalizers":["botbottle.dev/node"]}}`, unboundly},
		"unbound: status":    {"unbound", mine, true, `{"status":{"machine":{"name":"x"}}}`, unboundly},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			o, ok := tc.object.DeepCopyObject().(client.Object)
			if !ok {
				t.Fatalf("got %T, want an object", tc.object)
			}
			patch := client.RawPatch(types.MergePatchType, []byte(tc.patch))
			var err error
			if tc.status {
				err = agents[tc.agent].Status().Patch(t.Context(), o, patch, client.DryRunAll)
			} else {
				err = agents[tc.agent].Patch(t.Context(), o, patch, client.DryRunAll)
			}
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("got %v, want it allowed", err)
			case tc.want != "" && (!apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("got %v, want it refused with %q", err, tc.want)
			}
		})
	}
	if err := c.Patch(t.Context(), node.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"zone":"b"}}}`)), client.DryRunAll); err != nil {
		t.Errorf("got %v for an administrator, want it allowed", err)
	}
}

const scheduledFalse = `{"status":{"conditions":[{"type":"Scheduled","status":"False","reason":"Evicted","message":"forged","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`

// waitForPolicies waits until all policies apply: they do so a moment after their
// creation.
func waitForPolicies(t *testing.T, agent client.Client, node *corev1.Node) {
	t.Helper()
	patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"probe":"x"}}}`))
	gomega.NewWithT(t).Eventually(func() error {
		return agent.Patch(t.Context(), node.DeepCopy(), patch, client.DryRunAll)
	}, 20*time.Second, 50*time.Millisecond).Should(gomega.MatchError(gomega.ContainSubstring("may change no label")))
}

// The policy names every field of a Bottle's status that the agent writes, and the
// manager's fields and conditions are not among them.
func TestAgentStatusFields(t *testing.T) {
	policy, err := os.ReadFile(filepath.Join(apienv.Root(), "config", "policy", "agent_bottles.yaml"))
	must(t, err)
	managers := []string{"resources"}
	for field := range reflect.TypeFor[v1alpha1.BottleStatus]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if listed := strings.Contains(string(policy), "'"+name+"'"); listed == slices.Contains(managers, name) {
			t.Errorf("status.%s in config/policy/agent_bottles.yaml: got %t, want %t", name, listed, !listed)
		}
	}
	for _, typ := range v1alpha1.ConditionTypes {
		if typ.Manager && !typ.Agent && typ.Type != v1alpha1.ConditionScheduled {
			t.Errorf("the manager's condition %s: got no rule for it in config/policy/agent_bottles.yaml, want one", typ.Type)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
