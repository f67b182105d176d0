// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

// status decodes the Status that a request was answered with.
func status(t *testing.T, body string) metav1.Status {
	t.Helper()
	s := metav1.Status{}
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("got %q, want a Status: %v", body, err)
	}
	return s
}

// upgradeTo is a request for streams, without any that the client would use.
func (w *world) upgrade(cfg *rest.Config, rawPath string) (code int, body string, header http.Header) {
	w.t.Helper()
	c, err := rest.HTTPClientFor(cfg)
	must(w.t, err)
	defer c.CloseIdleConnections()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url+rawPath, http.NoBody)
	must(w.t, err)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "SPDY/3.1")
	r.Header.Set("X-Stream-Protocol-Version", "v4.channel.k8s.io")
	response, err := c.Do(r)
	must(w.t, err)
	defer response.Body.Close()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return response.StatusCode, "", response.Header
	}
	out := &strings.Builder{}
	buffer := make([]byte, 1<<20)
	for {
		n, err := response.Body.Read(buffer)
		out.Write(buffer[:n])
		if err != nil {
			return response.StatusCode, out.String(), response.Header
		}
	}
}

// webSocket asks for a WebSocket with a subprotocol.
func (w *world) webSocket(cfg *rest.Config, rawPath, protocol string) (code int, body string) {
	w.t.Helper()
	c, err := rest.HTTPClientFor(cfg)
	must(w.t, err)
	defer c.CloseIdleConnections()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url+rawPath, http.NoBody)
	must(w.t, err)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Protocol": {protocol}}
	response, err := c.Do(r)
	must(w.t, err)
	defer response.Body.Close()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return response.StatusCode, ""
	}
	out, err := io.ReadAll(response.Body)
	must(w.t, err)
	return response.StatusCode, string(out)
}

// A user who cannot work in a machine hears why, and what to do.
func TestBottleDoesNotRun(t *testing.T) {
	t.Parallel()
	yes, no := metav1.ConditionTrue, metav1.ConditionFalse
	on := func(name string) *builders.Bottle {
		return builders.MakeBottle(name).Namespace("default").UID(name).On(testNode).Condition(condition(v1alpha1.ConditionScheduled, yes))
	}
	w := start(t,
		builders.MakeBottle("pending").Namespace("default").Condition(condition(v1alpha1.ConditionScheduled, no)).Obj(),
		builders.MakeBottle("new").Namespace("default").Obj(),
		on("pulling").Condition(condition(v1alpha1.ConditionNetworkReady, yes)).Condition(condition(v1alpha1.ConditionSmolfileReady, yes)).
			Condition(condition(v1alpha1.ConditionBundleReady, yes)).Condition(condition(v1alpha1.ConditionMachineReady, no)).Obj(),
		on("early").Condition(condition(v1alpha1.ConditionNetworkReady, no)).Condition(condition(v1alpha1.ConditionMachineReady, metav1.ConditionUnknown)).Obj(),
		on("stopped").Stopped().Condition(condition(v1alpha1.ConditionMachineReady, no)).Obj(),
		on("done").Condition(condition(v1alpha1.ConditionMachineReady, no)).Condition(condition(v1alpha1.ConditionFinished, yes)).Obj(),
		running("gone").Finalizer("test/keep").Deleted(time.Now()).Obj(),
	)
	for name, want := range map[string][]string{
		"pending": {"Scheduled is False (Because): the message of Scheduled"},
		"new":     {"Scheduled is Unknown"},
		"pulling": {"MachineReady is False (Because): the message of MachineReady"},
		"early":   {"NetworkReady is False"},
		"stopped": {"spec.desiredState is Stopped", "Set it to Running"},
		"done":    {"ended for good", "Finished is True (Because)", "cp", "logs", "restart"},
		"gone":    {"being deleted"},
	} {
		for _, verb := range []string{"exec?command=true&stdout=true", "attach?stdout=true", "proof"} {
			code, body, _ := w.upgrade(w.as("alice"), path(name, verb))
			s := status(t, body)
			if code != http.StatusConflict || s.Reason != metav1.StatusReasonConflict {
				t.Errorf("%s of %s: got %d %s, want 409", verb, name, code, body)
			}
			for _, text := range append(want, "Bottle "+name) {
				if !strings.Contains(s.Message, text) {
					t.Errorf("%s of %s: got message %q, want %q in it", verb, name, s.Message, text)
				}
			}
		}
	}
	if code, body := w.get(w.as("alice"), path("absent", "log")); code != http.StatusNotFound || !strings.Contains(body, `bottles.botbottle.dev \"absent\" not found`) {
		t.Errorf("log of an absent Bottle: got %d %s, want 404", code, body)
	}
	if got := w.agent.requests(); len(got) > 0 {
		t.Errorf("the agent was asked %d times, want 0", len(got))
	}
}

// What is wrong with a request is named, parameter by parameter.
func TestInvalidRequest(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj())
	code, body, _ := w.upgrade(w.as("alice"), path("a", "exec?tty=true&stderr=true&purpose=x"))
	s := status(t, body)
	if code != http.StatusUnprocessableEntity || s.Details == nil || len(s.Details.Causes) != 3 {
		t.Errorf("exec: got %d %s, want 422 with 3 causes", code, body)
	}
	if code, body := w.get(w.as("alice"), path("a", "log?tailLines=-1")); code != http.StatusUnprocessableEntity || !strings.Contains(body, `"field":"tailLines"`) {
		t.Errorf("log: got %d %s, want 422 that names tailLines", code, body)
	}
	if code, body := w.do(w.as("alice"), http.MethodPost, path("a", "exec?command=true&stdout=true"), ""); code != http.StatusBadRequest || !strings.Contains(body, "upgrade") {
		t.Errorf("exec without an upgrade: got %d %s, want 400", code, body)
	}
	if code, body := w.webSocket(w.as("alice"), path("a", "exec?command=true&stdout=true"), "v4.channel.k8s.io"); code != http.StatusBadRequest || !strings.Contains(body, "v5.channel.k8s.io") {
		t.Errorf("exec by an old WebSocket: got %d %s, want 400", code, body)
	}
}

// An agent's errors reach the user with their code, and without anything that could
// control a terminal or fill a memory.
func TestAgentRefuses(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj())
	for name, c := range map[string]struct {
		code      int
		body      string
		retry     string
		want      int
		text      string
		wantRetry string
	}{
		"too many execs": {code: 429, body: `{"message":"4 commands run already"}`, retry: "7", want: 429, text: "Bottle a on node node-1: 4 commands run already", wantRetry: "7"},
		"wait for ever":  {code: 429, body: `{"message":"busy"}`, retry: "999999", want: 429, text: "busy", wantRetry: "60"},
		"not its Bottle": {code: 404, body: `{"message":"no such Bottle"}`, want: 404, text: "no such Bottle"},
		"terminal codes": {code: 409, body: `{"message":"\u001b[2Jcleared\r\n\u202eevil"}`, want: 409, text: `\x1b[2Jcleared\r\n\u202eevil`},
		"not the user":   {code: 403, body: `{"message":"who are you"}`, want: 503, text: "does not accept this manager: who are you", wantRetry: ""},
		"no Status":      {code: 500, body: "<html>", want: 500, text: "no reason given"},
		"redirect":       {code: 302, body: "", want: 500, text: "unexpected code 302"},
		"success":        {code: 204, body: "", want: 500, text: "unexpected code 204"},
		"flood":          {code: 409, body: `{"message":"` + strings.Repeat("x", 1<<20) + `"}`, want: 409, text: "no reason given"},
		"long message":   {code: 409, body: `{"message":"` + strings.Repeat("x", 20000) + `"}`, want: 409, text: strings.Repeat("x", maxMessage)},
	} {
		w.agent.set(func(a *agent) {
			a.answer = func(rw http.ResponseWriter, _ *http.Request) {
				if c.retry != "" {
					rw.Header().Set("Retry-After", c.retry)
				}
				rw.Header().Set("Location", "https://elsewhere.example")
				rw.Header().Set("Set-Cookie", "planted=1")
				rw.WriteHeader(c.code)
				rw.Write([]byte(c.body)) // fails when the manager has read enough
			}
		})
		for _, verb := range []string{"exec?command=true&stdout=true", "log", "proof"} {
			var code int
			var body string
			header := http.Header{}
			switch verb {
			case "log":
				code, body = w.get(w.as("alice"), path("a", verb))
			case "proof":
				code, body = w.do(w.as("alice"), http.MethodPost, path("a", verb), "")
			default:
				code, body, header = w.upgrade(w.as("alice"), path("a", verb))
			}
			s := status(t, body)
			if code != c.want || !strings.Contains(s.Message, c.text) {
				t.Errorf("%s, %s: got %d %.300s, want %d with %.100q", name, verb, code, body, c.want, c.text)
			}
			if len(body) > maxMessage+1024 {
				t.Errorf("%s, %s: got an answer of %d bytes", name, verb, len(body))
			}
			if got := header.Get("Set-Cookie") + header.Get("Location"); got != "" {
				t.Errorf("%s, %s: got the agent's headers %q", name, verb, got)
			}
			if got := header.Get("Retry-After"); strings.HasPrefix(verb, "exec") && c.wantRetry != "" && got != c.wantRetry {
				t.Errorf("%s: got Retry-After %q, want %q", name, got, c.wantRetry)
			}
		}
	}
}

// A user hears which node's agent does not answer, and a manager talks to nobody but
// the agent of that very node.
func TestAgentUnreachable(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj(), running("b").On("node-2").Obj(), running("c").On("node-3").Obj(),
		running("d").On("node-4").Obj(), running("e").On("node-5").Obj())
	// The Lease of node-2 leads to the agent of node-1.
	lease := func(node, address string) {
		t.Helper()
		l := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: leasePrefix + node}}
		if address != "" {
			l.Annotations = map[string]string{v1alpha1.AnnotationAgentAddress: address}
		}
		must(t, ctrl.IgnoreAlreadyExists(w.client.Create(t.Context(), l)))
	}
	lease("node-2", w.agent.address)
	must(t, w.client.Create(t.Context(), nodeAt("node-2", "::ffff:127.0.0.1")))
	lease("node-3", "")
	// The address of node-4's agent is another's, whether something answers there or not.
	lease("node-4", w.agent.address)
	must(t, w.client.Create(t.Context(), nodeAt("node-4", "192.0.2.4")))
	lease("node-5", "127.0.0.1:1") // which has no Node
	own := &coordinationv1.Lease{}
	must(t, w.client.Get(t.Context(), ctrl.ObjectKey{Namespace: testNamespace, Name: leasePrefix + testNode}, own))
	own.Annotations[v1alpha1.AnnotationAgentAddress] = "127.0.0.1:1"
	must(t, w.client.Update(t.Context(), own))
	for name, want := range map[string]string{
		"a": "the agent of node node-1 does not answer at 127.0.0.1:1: connection refused",
		"b": "node-2.agents.botbottle.dev",
		"c": "the agent of node node-3 does not serve the access API",
		"d": "the Lease of the agent of node node-4 has an address that is not one of the Node's",
		"e": "the Lease of the agent of node node-5 has an address that is not one of the Node's",
	} {
		for _, verb := range []string{"exec?command=true&stdout=true", "log"} {
			code, body, _ := w.upgrade(w.as("alice"), path(name, "exec?command=true&stdout=true"))
			if verb == "log" {
				code, body = w.get(w.as("alice"), path(name, verb))
			}
			if s := status(t, body); code != http.StatusServiceUnavailable || !strings.Contains(s.Message, want) {
				t.Errorf("%s of %s: got %d %s, want 503 with %q", verb, name, code, body, want)
			}
		}
	}
	if got := w.agent.requests(); len(got) > 0 {
		t.Errorf("node-1's agent got %d requests for a Bottle of node-2", len(got))
	}
}

// Nobody but kube-apiserver can speak for a user, so that each request is in its
// audit log.
func TestOnlyTheFrontProxy(t *testing.T) {
	t.Parallel()
	w := start(t, running("a").Obj())
	stranger := newPKI(t)
	for name, cfg := range map[string]*rest.Config{
		"no certificate":       w.as("system:admin", "system:masters"),
		"a foreign authority":  w.as("system:admin", "system:masters"),
		"another name":         w.as("system:admin", "system:masters"),
		"a token and no proxy": {Host: w.url, BearerToken: "token", TLSClientConfig: rest.TLSClientConfig{CAData: w.front.pem}},
	} {
		switch name {
		case "no certificate":
			cfg.CertData, cfg.KeyData = nil, nil
		case "a foreign authority":
			cfg.CertData, cfg.KeyData = stranger.issue("front-proxy", clientAuth)
		case "another name":
			cfg.CertData, cfg.KeyData = w.front.issue("kubelet", clientAuth)
		}
		for _, p := range []string{path("a", "log"), "/apis", "/openapi/v3", "/readyz", "/metrics"} {
			if code, body := w.get(cfg, p); code != http.StatusUnauthorized {
				t.Errorf("%s, %s: got %d %s, want 401", name, p, code, body)
			}
		}
	}
}
