// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/test/api/apienv"
)

// config/policy permits the writes that an agent needs. It refuses the other
// writes that the rights in config/rbac would permit.
func TestAgentWrites(t *testing.T) {
	cfg := apienv.Start(t)
	c := apienv.Client(t, cfg)
	agent := apienv.Client(t, apienv.AsServiceAccount(cfg, "bottle-agent"))
	ns := apienv.Namespace(t, c)

	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "policy-", Labels: map[string]string{"zone": "a"}}}
	must(t, c.Create(t.Context(), node))
	t.Cleanup(func() { _ = c.Delete(t.Context(), node) })
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.9"}}
	must(t, c.Status().Update(t.Context(), node))
	mine, other := bottleIn(t, c, ns, "mine"), bottleIn(t, c, ns, "other")
	place(t, c, mine, "node-a")

	// The policy takes effect a moment after its creation.
	gomega.NewWithT(t).Eventually(func() error {
		return agent.Patch(t.Context(), node.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"probe":"x"}}}`)), client.DryRunAll)
	}, 20*time.Second, 50*time.Millisecond).Should(gomega.MatchError(gomega.ContainSubstring("may change no label")))

	tests := map[string]struct {
		object client.Object
		status bool
		patch  string
		want   string // "" means allowed
	}{
		"label":                   {node, false, `{"metadata":{"labels":{"botbottle.dev/agent":"ready"}}}`, ""},
		"no label":                {node, false, `{"metadata":{"labels":{"botbottle.dev/agent":null}}}`, ""},
		"capacity":                {node, true, `{"status":{"capacity":{"botbottle.dev/bottle":"250"},"allocatable":{"botbottle.dev/bottle":"250"}}}`, ""},
		"finalizer":               {mine, false, `{"metadata":{"finalizers":["botbottle.dev/node"]}}`, ""},
		"finalizer, no status":    {other, false, `{"metadata":{"finalizers":["botbottle.dev/node"]}}`, ""},
		"status":                  {mine, true, `{"status":{"machine":{"name":"x"}}}`, ""},
		"leaving":                 {mine, true, `{"status":{"nodeName":null,"machine":null}}`, ""},
		"another label":           {node, false, `{"metadata":{"labels":{"zone":"b"}}}`, "may change no label except botbottle.dev/agent"},
		"a label removed":         {node, false, `{"metadata":{"labels":{"zone":null}}}`, "may change no label except botbottle.dev/agent"},
		"a label with the status": {node, true, `{"metadata":{"labels":{"zone":"b"}}}`, "may change no label except botbottle.dev/agent"},
		"a taint":                 {node, false, `{"spec":{"taints":[{"key":"k","effect":"NoSchedule"}]}}`, "may not change a spec"},
		"cordon":                  {node, false, `{"spec":{"unschedulable":true}}`, "may not change a spec"},
		"another capacity":        {node, true, `{"status":{"capacity":{"cpu":"1000"}}}`, "may change no capacity except botbottle.dev/bottle"},
		"another allocatable":     {node, true, `{"status":{"allocatable":{"cpu":"1000"}}}`, "may change no capacity except botbottle.dev/bottle"},
		"a condition":             {node, true, `{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`, "may not change the conditions of a Node"},
		"conditions removed":      {node, true, `{"status":{"conditions":null}}`, "may not change the conditions of a Node"},
		"an address":              {node, true, `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}]}}`, "may change nothing else in a Node's status"},
		"addresses removed":       {node, true, `{"status":{"addresses":null}}`, "may change nothing else in a Node's status"},
		"an endpoint":             {node, true, `{"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":1}}}}`, "may change nothing else in a Node's status"},
		"node info":               {node, true, `{"status":{"nodeInfo":{"kernelVersion":"x"}}}`, "may change nothing else in a Node's status"},
		"an image":                {node, true, `{"status":{"images":[{"names":["x"],"sizeBytes":1}]}}`, "may change nothing else in a Node's status"},
		"a volume attached":       {node, true, `{"status":{"volumesAttached":[{"name":"v","devicePath":"/dev/x"}]}}`, "may change nothing else in a Node's status"},
		"a volume in use":         {node, true, `{"status":{"volumesInUse":["v"]}}`, "may change nothing else in a Node's status"},
		"an annotation":           {node, false, `{"metadata":{"annotations":{"a":"b"}}}`, "may not change annotations"},
		"annotation with status":  {node, true, `{"metadata":{"annotations":{"a":"b"}}}`, "may not change annotations"},
		"an owner":                {node, false, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"x","uid":"x"}]}}`, "may not change owner references"},
		"a Bottle's annotation":   {mine, false, `{"metadata":{"annotations":{"a":"b"}}}`, "may not change annotations"},
		"a Bottle's owner":        {mine, false, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"x","uid":"x"}]}}`, "may not change owner references"},
		"a Bottle's spec":         {mine, false, `{"spec":{"env":[{"name":"A","value":"stolen"}]}}`, "may not change a spec"},
		"a Bottle's label":        {mine, false, `{"metadata":{"labels":{"a":"b"}}}`, "may change no label"},
		"another finalizer":       {mine, false, `{"metadata":{"finalizers":["x.example/y"]}}`, "may change no finalizer except botbottle.dev/node"},
		"a Bottle's node set":     {other, true, `{"status":{"nodeName":"node-a"}}`, "may clear a Bottle's node but may not set it"},
		"a Bottle's node changed": {mine, true, `{"status":{"nodeName":"node-b"}}`, "may clear a Bottle's node but may not set it"},
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
				err = agent.Status().Patch(t.Context(), o, patch, client.DryRunAll)
			} else {
				err = agent.Patch(t.Context(), o, patch, client.DryRunAll)
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

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
