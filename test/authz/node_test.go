// SPDX-License-Identifier: Apache-2.0

package authz_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agenttoken"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

const (
	node = "node-1"
	// Refusals of config/policy.
	unbound    = "token is not bound to a Node"
	ownBottles = "may write only Bottles whose status.nodeName is its own node"
	ownNode    = "may write only its own Node"
	ownLease   = "may write only its own Lease"
)

// otherNode creates a Node that has neither a kubelet nor an agent, and returns its
// name.
func otherNode(t *testing.T) string {
	t.Helper()
	c := connect(t)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "authz-"}, Spec: corev1.NodeSpec{Unschedulable: true}}
	if err := c.Create(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.IgnoreNotFound(c.Delete(context.Background(), n)); err != nil {
			t.Error(err)
		}
	})
	return n.Name
}

// runningBottle returns a Bottle that runs on the node.
func runningBottle(t *testing.T, ns string) *v1alpha1.Bottle {
	t.Helper()
	c := connect(t)
	b := builders.MakeBottle("victim").Namespace(ns).Slug("victim").Pin(node).Obj()
	c.Apply(t, b)
	c.WaitFor(t, b, "to run", func() bool { return story.Running(b) })
	return b
}

// withCondition returns a merge patch that sets one of b's conditions.
func withCondition(t *testing.T, b *v1alpha1.Bottle, typ string, status metav1.ConditionStatus, reason string) client.Patch {
	t.Helper()
	conditions := []metav1.Condition{{Type: typ, Status: status, Reason: reason, Message: "forged", LastTransitionTime: metav1.Now()}}
	for _, c := range b.Status.Conditions {
		if c.Type != typ {
			conditions = append(conditions, c)
		}
	}
	data, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": conditions}})
	if err != nil {
		t.Fatal(err)
	}
	return merge(string(data))
}

// patchStatus and patchMain try a patch as a dry run.
func patchStatus(t *testing.T, c client.Client, o client.Object, p client.Patch) error {
	t.Helper()
	return c.Status().Patch(t.Context(), o.DeepCopyObject().(client.Object), p, client.DryRunAll)
}

func patchMain(t *testing.T, c client.Client, o client.Object, p client.Patch) error {
	t.Helper()
	return c.Patch(t.Context(), o.DeepCopyObject().(client.Object), p, client.DryRunAll)
}

// An agent writes the status and the finalizer of its own Bottles, and nothing of
// another node's.
func TestAgentAndBottles(t *testing.T) {
	c := connect(t)
	b := runningBottle(t, c.Namespace(t))
	agents := map[string]client.Client{"owner": agentOf(t, node), "neighbour": agentOf(t, otherNode(t)), "unbound": unboundAgent(t)}

	forged := withCondition(t, b, v1alpha1.ConditionEgressEnforced, metav1.ConditionTrue, "BothWalls")
	evicted := withCondition(t, b, v1alpha1.ConditionScheduled, metav1.ConditionFalse, v1alpha1.ReasonEvicted)
	for name, tc := range map[string]struct {
		status bool
		patch  client.Patch
		owner  string // the refusal; "" means allowed
	}{
		"EgressEnforced":     {true, forged, ""},
		"machine":            {true, merge(`{"status":{"machine":{"name":"x"}}}`), ""},
		"leaves":             {true, merge(`{"status":{"nodeName":null}}`), ""},
		"no finalizer":       {false, merge(`{"metadata":{"finalizers":null}}`), ""},
		"evicted":            {true, evicted, "may not change the condition Scheduled"},
		"moves":              {true, merge(`{"status":{"nodeName":"node-9"}}`), "may clear a Bottle's node but may not set it"},
		"size":               {true, merge(`{"status":{"resources":{"cpus":16}}}`), "what the manager reports"},
		"spec":               {false, merge(`{"spec":{"env":[{"name":"A","value":"b"}]}}`), "nothing of a Bottle except"},
		"annotation":         {false, merge(`{"metadata":{"annotations":{"botbottle.dev/recreatedAt":"now"}}}`), "nothing of a Bottle's metadata except"},
		"another finalizer":  {false, merge(`{"metadata":{"finalizers":["botbottle.dev/node","x.example/y"]}}`), "no finalizer except"},
		"owner reference":    {false, merge(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"x","uid":"x"}]}}`), "nothing of a Bottle's metadata except"},
		"conditions removed": {true, merge(`{"status":{"conditions":null}}`), "may not change the condition Scheduled"},
	} {
		t.Run(name, func(t *testing.T) {
			for who, agent := range agents {
				try := patchMain
				if tc.status {
					try = patchStatus
				}
				err := try(t, agent, b, tc.patch)
				switch {
				case who == "unbound":
					wantRefused(t, err, unbound)
				case who == "neighbour":
					wantRefused(t, err, ownBottles)
				case tc.owner == "":
					wantAllowed(t, err)
				default:
					wantRefused(t, err, tc.owner)
				}
			}
		})
	}
	for who, agent := range agents {
		if err := agent.Delete(t.Context(), b.DeepCopy(), client.DryRunAll); err == nil {
			t.Errorf("%s deletes a Bottle: got nil, want it refused", who)
		}
		made := builders.MakeBottle("made").Namespace(b.Namespace).Slug("made").Obj()
		if err := agent.Create(t.Context(), made, client.DryRunAll); err == nil {
			t.Errorf("%s creates a Bottle: got nil, want it refused", who)
		}
	}
	// A cluster administrator may break glass.
	boss := admin(t, b.Namespace)
	wantAllowed(t, patchStatus(t, boss, b, forged))
	wantAllowed(t, patchStatus(t, boss, b, evicted))
	wantAllowed(t, patchMain(t, boss, b, merge(`{"metadata":{"finalizers":null}}`)))
}

// An agent writes one label and one resource of its own Node, and nothing else of
// any Node.
func TestAgentAndNodes(t *testing.T) {
	c := connect(t)
	name := otherNode(t)
	own, foreign := &corev1.Node{}, &corev1.Node{}
	for key, n := range map[string]*corev1.Node{name: own, node: foreign} {
		if err := c.Get(t.Context(), client.ObjectKey{Name: key}, n); err != nil {
			t.Fatal(err)
		}
	}
	agent, plain := agentOf(t, name), unboundAgent(t)
	for name, tc := range map[string]struct {
		status bool
		patch  string
		want   string // the refusal on the own Node; "" means allowed
	}{
		"label":             {false, `{"metadata":{"labels":{"botbottle.dev/agent":"ready"}}}`, ""},
		"resource":          {true, `{"status":{"capacity":{"botbottle.dev/bottle":"9"},"allocatable":{"botbottle.dev/bottle":"9"}}}`, ""},
		"resource removed":  {true, `{"status":{"capacity":{"botbottle.dev/bottle":null},"allocatable":{"botbottle.dev/bottle":null}}}`, ""},
		"finalizer":         {false, `{"metadata":{"finalizers":["botbottle.dev/node"]}}`, "metadata"},
		"another label":     {false, `{"metadata":{"labels":{"topology.kubernetes.io/zone":"x"}}}`, "no label except"},
		"annotation":        {false, `{"metadata":{"annotations":{"a":"b"}}}`, "metadata"},
		"annotation, too":   {true, `{"metadata":{"annotations":{"a":"b"}}}`, "metadata"},
		"owner":             {false, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"x","uid":"x"}]}}`, "metadata"},
		"taint":             {false, `{"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","effect":"NoExecute"}]}}`, "nothing of its Node except"},
		"no taint":          {false, `{"spec":{"taints":null,"unschedulable":null}}`, "nothing of its Node except"},
		"cpus":              {true, `{"status":{"capacity":{"cpu":"1000"}}}`, "no resource except"},
		"allocatable cpus":  {true, `{"status":{"allocatable":{"cpu":"1000"}}}`, "no resource except"},
		"condition":         {true, `{"status":{"conditions":[{"type":"Ready","status":"False"}]}}`, "status"},
		"address":           {true, `{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.1"}]}}`, "status"},
		"endpoint":          {true, `{"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":1}}}}`, "status"},
		"runtime handlers":  {true, `{"status":{"runtimeHandlers":[{"name":"x"}]}}`, "status"},
		"features":          {true, `{"status":{"features":{"supplementalGroupsPolicy":true}}}`, "status"},
		"declared features": {true, `{"status":{"declaredFeatures":["SomeFeature"]}}`, "status"},
		"images":            {true, `{"status":{"images":[{"names":["x"],"sizeBytes":1}]}}`, "status"},
		"volumes":           {true, `{"status":{"volumesAttached":[{"name":"v","devicePath":"/dev/x"}]}}`, "status"},
		"phase":             {true, `{"status":{"phase":"Terminated"}}`, "status"},
	} {
		t.Run(name, func(t *testing.T) {
			try := patchMain
			if tc.status {
				try = patchStatus
			}
			err := try(t, agent, own, merge(tc.patch))
			if tc.want == "" {
				wantAllowed(t, err)
			} else {
				wantRefused(t, err, tc.want)
			}
			wantRefused(t, try(t, agent, foreign, merge(tc.patch)), ownNode)
			wantRefused(t, try(t, plain, own, merge(tc.patch)), unbound)
		})
	}
	if err := agent.Delete(t.Context(), foreign.DeepCopy(), client.DryRunAll); err == nil {
		t.Error("an agent deletes a Node: got nil, want it refused")
	}
}

// An agent writes its own Lease only.
func TestAgentAndLeases(t *testing.T) {
	c := connect(t)
	system, other := c.SystemNamespace(t), otherNode(t)
	agent, plain := agentOf(t, other), unboundAgent(t)
	lease := func(name, holder string) *coordinationv1.Lease {
		return &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: ptr.To[int32](40)},
		}
	}
	own := lease("bottle-agent-"+other, other)
	wantRefused(t, plain.Create(t.Context(), own.DeepCopy(), client.DryRunAll), unbound)
	wantAllowed(t, agent.Create(t.Context(), own))
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), own); err != nil {
			t.Error(err)
		}
	})
	own.Spec.RenewTime = ptr.To(metav1.NowMicro())
	wantAllowed(t, agent.Update(t.Context(), own.DeepCopy(), client.DryRunAll))
	wantRefused(t, plain.Update(t.Context(), own.DeepCopy(), client.DryRunAll), unbound)
	own.Spec.LeaseDurationSeconds = ptr.To[int32](1 << 30)
	wantRefused(t, agent.Update(t.Context(), own.DeepCopy(), client.DryRunAll), "60 seconds")

	wantRefused(t, agent.Create(t.Context(), lease("bottle-agent-none", other), client.DryRunAll), ownLease)
	boss := admin(t, c.Namespace(t))
	for _, name := range []string{"bottle-agent-" + node, "bottle-manager"} {
		steal := func(who client.Client) (err error) {
			c.Eventually(t, "an update without conflict", func() (string, bool) {
				existing := &coordinationv1.Lease{}
				if err := c.Get(t.Context(), client.ObjectKey{Namespace: system, Name: name}, existing); err != nil {
					t.Fatal(err)
				}
				existing.Spec.HolderIdentity = &other
				err = who.Update(t.Context(), existing, client.DryRunAll)
				return "conflict", !apierrors.IsConflict(err)
			})
			return err
		}
		wantRefused(t, steal(agent), ownLease)
		wantRefused(t, steal(plain), unbound)
		wantAllowed(t, steal(boss))
		if err := agent.Delete(t.Context(), lease(name, ""), client.DryRunAll); err == nil {
			t.Errorf("an agent deletes %s: got nil, want it refused", name)
		}
	}
}

// An agent's Events say which node they are from.
func TestAgentAndEvents(t *testing.T) {
	c := connect(t)
	ns, other := c.Namespace(t), otherNode(t)
	event := func(change func(*eventsv1.Event)) *eventsv1.Event {
		e := &eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "authz-"}, EventTime: metav1.NowMicro(),
			ReportingController: "botbottle.dev/agent", ReportingInstance: other, Action: "Test", Reason: "Test", Type: corev1.EventTypeNormal, Note: "a test",
			Regarding: corev1.ObjectReference{APIVersion: "botbottle.dev/v1alpha1", Kind: "Bottle", Namespace: ns, Name: "x"},
		}
		change(e)
		return e
	}
	agent := agentOf(t, other)
	for name, tc := range map[string]struct {
		change func(*eventsv1.Event)
		want   string
	}{
		"own":          {func(*eventsv1.Event) {}, ""},
		"another node": {func(e *eventsv1.Event) { e.ReportingInstance = node }, "reportingInstance"},
		"the manager":  {func(e *eventsv1.Event) { e.ReportingController = "botbottle.dev/manager" }, "reportingController"},
		"a Pod":        {func(e *eventsv1.Event) { e.Regarding.APIVersion, e.Regarding.Kind = "v1", "Pod" }, "must regard"},
	} {
		t.Run(name, func(t *testing.T) {
			err := agent.Create(t.Context(), event(tc.change), client.DryRunAll)
			if tc.want == "" {
				wantAllowed(t, err)
				return
			}
			wantRefused(t, err, tc.want)
		})
	}
	wantRefused(t, unboundAgent(t).Create(t.Context(), event(func(*eventsv1.Event) {}), client.DryRunAll), unbound)
	foreign := event(func(e *eventsv1.Event) { e.ReportingInstance = node })
	if err := c.Create(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	again := merge(`{"series":{"count":2,"lastObservedTime":"2026-01-01T00:00:00.000000Z"}}`)
	wantRefused(t, patchMain(t, agent, foreign, again), "reportingInstance")
	repeated := event(func(*eventsv1.Event) {})
	wantAllowed(t, agent.Create(t.Context(), repeated))
	wantAllowed(t, patchMain(t, agent, repeated, again))
	old := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "authz-"}, InvolvedObject: corev1.ObjectReference{Namespace: ns, Kind: "Bottle", Name: "x"}}
	wantRefused(t, agent.Create(t.Context(), old, client.DryRunAll))
}

// An agent requests tokens for itself only.
func TestAgentAndTokens(t *testing.T) {
	c := connect(t)
	system, other := c.SystemNamespace(t), otherNode(t)
	uids := map[string]*corev1.Node{node: {}, other: {}}
	for name, n := range uids {
		if err := c.Get(t.Context(), client.ObjectKey{Name: name}, n); err != nil {
			t.Fatal(err)
		}
	}
	bound := func(name string) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: name, UID: uids[name].UID}
	}
	request := func(agent client.Client, account string, change func(*authenticationv1.TokenRequestSpec)) error {
		spec := authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](3600), BoundObjectRef: bound(other)}
		change(&spec)
		owner := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: account}}
		return agent.SubResource("token").Create(t.Context(), owner, &authenticationv1.TokenRequest{Spec: spec})
	}
	agent, plain := agentOf(t, other), unboundAgent(t)
	keep := func(*authenticationv1.TokenRequestSpec) {}
	wantAllowed(t, request(agent, agentAccount, keep))
	const boundTo = "bound to the Node of its own token"
	for name, tc := range map[string]struct {
		change func(*authenticationv1.TokenRequestSpec)
		want   string
	}{
		"another Node": {func(s *authenticationv1.TokenRequestSpec) { s.BoundObjectRef = bound(node) }, boundTo},
		"unbound":      {func(s *authenticationv1.TokenRequestSpec) { s.BoundObjectRef = nil }, boundTo},
		"no UID":       {func(s *authenticationv1.TokenRequestSpec) { s.BoundObjectRef.UID = "" }, boundTo},
		"another UID":  {func(s *authenticationv1.TokenRequestSpec) { s.BoundObjectRef.UID = uids[node].UID }, boundTo},
		"a Pod": {func(s *authenticationv1.TokenRequestSpec) {
			s.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "x", UID: "x"}
		}, boundTo},
		"another audience": {func(s *authenticationv1.TokenRequestSpec) { s.Audiences = []string{"vault"} }, "audiences"},
		"one audience more": {func(s *authenticationv1.TokenRequestSpec) {
			s.Audiences = []string{"https://kubernetes.default.svc", "vault"}
		}, "audiences"},
		"for a year": {func(s *authenticationv1.TokenRequestSpec) { s.ExpirationSeconds = ptr.To[int64](365 * 86400) }, "168 hours"},
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, request(agent, agentAccount, tc.change), tc.want) })
	}
	wantRefused(t, request(agent, "bottle-manager", keep))
	wantRefused(t, request(agent, "default", keep))
	wantRefused(t, request(plain, agentAccount, keep), unbound)

	// Deleting the Node revokes its tokens.
	if err := c.Delete(t.Context(), uids[other]); err != nil {
		t.Fatal(err)
	}
	c.Eventually(t, "the token of a deleted Node to be void", func() (string, bool) {
		err := request(agent, agentAccount, keep)
		if err == nil {
			return "it is accepted", false
		}
		return err.Error(), strings.Contains(err.Error(), "Unauthorized")
	})
}

// The token that a kubelet projects into an agent's Pod is as good as one that is
// bound to the Node, except that it cannot be exchanged for one that outlives the Pod.
func TestAgentInAPod(t *testing.T) {
	c := connect(t)
	system := c.SystemNamespace(t)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: system, GenerateName: "authz-agent-"},
		Spec: corev1.PodSpec{
			ServiceAccountName: agentAccount, NodeName: node,
			SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true), RunAsUser: ptr.To[int64](65532), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
			Containers: []corev1.Container{{Name: "agent", Image: "registry.k8s.io/pause:3.10", SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: ptr.To(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			}}},
		},
	}
	if err := c.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), pod, client.GracePeriodSeconds(0)); err != nil {
			t.Error(err)
		}
	})
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: system, Name: agentAccount}}
	projected := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if err := c.SubResource("token").Create(t.Context(), account, projected); err != nil {
		t.Fatal(err)
	}
	agent := tokenClient(t, projected.Status.Token)
	own, foreign := &corev1.Node{}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: otherNode(t)}}
	if err := c.Get(t.Context(), client.ObjectKey{Name: node}, own); err != nil {
		t.Fatal(err)
	}
	label := merge(`{"metadata":{"labels":{"botbottle.dev/agent":"ready"}}}`)
	wantAllowed(t, patchMain(t, agent, own, label))
	wantRefused(t, patchMain(t, agent, foreign, label), ownNode)
	longer := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: node, UID: own.UID},
	}}
	wantRefused(t, agent.SubResource("token").Create(t.Context(), account, longer), "outlive the Pod")
}

// A running agent replaces a token that somebody made for a short time, without a
// restart, and goes on with the new one.
func TestAgentRenewsItsToken(t *testing.T) {
	c := connect(t)
	path := filepath.Join(c.Dir, "nodes", node, "agent.token")
	claims := func() agenttoken.Claims {
		token, err := agenttoken.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := agenttoken.Parse(token)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	before := claims()
	if before.Node != node || before.Namespace != c.SystemNamespace(t) || before.ServiceAccount != agentAccount {
		t.Fatalf("the agent's token: got %+v, want one that is bound to %s", before, node)
	}
	first := accountToken(t, before.Namespace, before.ServiceAccount, node) // valid for an hour
	c.Run(t, "agent-stop", node)
	if err := os.WriteFile(path, []byte(first), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Run(t, "agent-start", node)
	c.Eventually(t, "the agent to replace its token", func() (string, bool) {
		got := claims()
		life := got.Expires.Sub(got.Issued)
		return "valid for " + life.String(), life > 24*time.Hour && got.NodeUID == before.NodeUID
	})
	runningBottle(t, c.Namespace(t))
}

// The agents' policies are in force, and the API server finds nothing to complain
// about in their expressions.
func TestPoliciesTypeCheck(t *testing.T) {
	c := connect(t)
	c.Eventually(t, "the policies to be checked", func() (string, bool) {
		list := &admissionregistrationv1.ValidatingAdmissionPolicyList{}
		if err := c.List(t.Context(), list); err != nil {
			return err.Error(), false
		}
		checked := 0
		for _, p := range list.Items {
			if !strings.HasPrefix(p.Name, "bottle-") {
				continue
			}
			if p.Status.ObservedGeneration != p.Generation || p.Status.TypeChecking == nil {
				return p.Name + " is not checked yet", false
			}
			for _, w := range p.Status.TypeChecking.ExpressionWarnings {
				t.Errorf("%s: %s: %s", p.Name, w.FieldRef, w.Warning)
			}
			checked++
		}
		if checked < 6 {
			t.Errorf("got %d policies, want those of the agents", checked)
		}
		return "", true
	})
}

// The built-in role edit does not include Bottles; view does.
func TestBuiltInRoles(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	role := func(name string) client.Client {
		return user(t, ns, name, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name})
	}
	bottle := func() *v1alpha1.Bottle { return builders.MakeBottle("mine").Namespace(ns).Slug("mine").Obj() }
	for _, name := range []string{"edit", "admin", "view"} {
		wantRefused(t, role(name).Create(t.Context(), bottle(), client.DryRunAll))
	}
	wantAllowed(t, role("view").List(t.Context(), &v1alpha1.BottleList{}, client.InNamespace(ns)))
	wantAllowed(t, tenant(t, ns).Create(t.Context(), bottle(), client.DryRunAll))
}
