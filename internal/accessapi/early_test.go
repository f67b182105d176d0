// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	client "k8s.io/client-go/tools/remotecommand"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/await"
)

// booting is a Bottle whose machine does not run yet.
func booting() *v1alpha1.Bottle {
	b := running("a").Obj()
	meta.SetStatusCondition(&b.Status.Conditions, condition(v1alpha1.ConditionMachineReady, metav1.ConditionFalse))
	return b
}

// A connection that is made early serves the request, if it leads where the Bottle is.
// Whatever the cache says, the API server's Bottle decides.
func TestEarlyConnection(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cached, actual *v1alpha1.Bottle
		connects       int32
		refused        string
	}{
		"the cache is right":                        {running("a").Obj(), running("a").Obj(), 1, ""},
		"it has moved":                              {running("a").On("node-2").Obj(), running("a").Obj(), 2, ""},
		"its machine does not run":                  {running("a").Obj(), booting(), 0, "does not run"},
		"it is gone":                                {running("a").Obj(), running("b").Obj(), 0, "not found"},
		"it did not run":                            {booting(), running("a").Obj(), 1, ""},
		"nothing is cached of it":                   {running("b").Obj(), running("a").Obj(), 1, ""},
		"it was on no node so far":                  {running("a").On("").Obj(), running("a").Obj(), 1, ""},
		"its agent's address is none of the node's": {running("a").On("node-4").Obj(), running("a").Obj(), 1, ""},
		"it was on an unknown node":                 {running("a").On("node-3").Obj(), running("a").Obj(), 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, c.actual)
			w.agent.set(func(a *agent) { a.run = catAndExit })
			must(t, w.cache.Create(t.Context(), c.cached))
			for _, node := range []string{testNode, "node-2"} {
				must(t, w.cache.Create(t.Context(), nodeAt(node, "127.0.0.1")))
				must(t, w.cache.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: leasePrefix + node,
					Annotations: map[string]string{v1alpha1.AnnotationAgentAddress: w.agent.address}}}))
			}
			must(t, w.cache.Create(t.Context(), nodeAt("node-4", "192.0.2.4")))
			must(t, w.cache.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: leasePrefix + "node-4",
				Annotations: map[string]string{v1alpha1.AnnotationAgentAddress: w.agent.address}}}))
			out := &bytes.Buffer{}
			err := w.execute("WebSocket", "alice", path("a", "exec"), query3("true"), client.StreamOptions{Stdin: strings.NewReader("in"), Stdout: out, Stderr: &bytes.Buffer{}})
			switch {
			case err == nil:
				t.Error("got no error, want the exit code or a refusal")
			case c.refused != "" && !strings.Contains(err.Error(), c.refused):
				t.Errorf("got %v, want %q", err, c.refused)
			case c.refused == "" && (!strings.Contains(err.Error(), "42") || out.String() != "in"):
				t.Errorf("got %v and %q, want the exit code 42 and the input", err, out)
			}
			await.True(t, "no connection is left unused", func() bool { return w.agent.unused.Load() == 0 })
			if c.refused != "" {
				if len(w.agent.requests()) > 0 {
					t.Error("the agent got a request, want none")
				}
				return
			}
			if n := w.agent.connected.Load(); n != c.connects {
				t.Errorf("connected %d times, want %d", n, c.connects)
			}
		})
	}
}

// A connection that is made, but not needed, is closed.
func TestEarlyConnectionUnused(t *testing.T) {
	t.Parallel()
	w := start(t)
	must(t, w.cache.Create(t.Context(), running("a").Obj()))
	must(t, w.cache.Create(t.Context(), nodeAt(testNode, "127.0.0.1")))
	must(t, w.cache.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: leasePrefix + testNode,
		Annotations: map[string]string{v1alpha1.AnnotationAgentAddress: w.agent.address}}}))
	a := &access{find: &finder{reader: w.client, cache: w.cache, namespace: testNamespace}, hop: &hop{tls: w.agentTLS}}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
	e := a.early(&connection{r: r, namespace: "default", name: "a"})
	<-e.made
	must(t, e.err)
	if n := w.agent.unused.Load(); n != 1 {
		t.Errorf("got %d connections, want 1", n)
	}
	e.close()
	await.True(t, "the connection is closed", func() bool { return w.agent.unused.Load() == 0 })
}
