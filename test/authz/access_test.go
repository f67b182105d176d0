// SPDX-License-Identifier: Apache-2.0

package authz_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	bottles "botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// Who may use a running Bottle through the access API. The tests share the Bottle.
func TestAccess(t *testing.T) {
	c := connect(t)
	b := workingBottle(t, c.Namespace(t))
	t.Run("others", func(t *testing.T) { testOthers(t, c, b) })
	t.Run("environments", func(t *testing.T) { testEnvironments(t, c, b) })
	t.Run("the agent's port", func(t *testing.T) { testAgentPort(t, c, b) })
	t.Run("the managers' ports", func(t *testing.T) { testManagerPorts(t, c, b) })
	if runsCommands(t) { // the managers are the same on both clusters
		t.Run("each manager", func(t *testing.T) { testEachManager(t, c, b) })
	}
	t.Run("personas", func(t *testing.T) { testPersonas(t, c, b) }) // the last one restarts the Bottle
}

// Each user may do what RBAC says, and nothing else, whichever HTTP method and
// protocol arrives. The API server's audit log names the user and what was tried.
func testPersonas(t *testing.T, c *story.Cluster, b *bottles.Bottle) {
	ns := b.Namespace
	session := []string{"exec by POST", "exec by WebSocket", "attach by POST", "attach by WebSocket"}
	personas := map[string]struct {
		grant func(t *testing.T, p person)
		may   []string
	}{
		"admin":         {clusterRole(ns, "admin"), []string{"log"}},
		"edit":          {clusterRole(ns, "edit"), []string{"log"}},
		"view":          {clusterRole(ns, "view"), []string{"log"}},
		"bottle-access": {clusterRole(ns, "bottle-access"), append([]string{"log"}, session...)},
		"nobody":        {func(*testing.T, person) {}, nil},
		"get-only": {func(t *testing.T, p person) {
			grantVerbs(t, ns, p, []string{"bottles/exec", "bottles/attach"}, "get", "list", "watch", "update", "patch", "delete")
		}, nil},
		"create-only": {func(t *testing.T, p person) {
			grantVerbs(t, ns, p, []string{"bottles/exec", "bottles/attach"}, "create")
		}, []string{"exec by POST", "attach by POST"}},
		"all-of-bottles": {func(t *testing.T, p person) {
			grantVerbs(t, ns, p, []string{"bottles"}, "*")
		}, nil},
		// Last, because it restarts the Bottle.
		"bottle-editor": {clusterRole(ns, "bottle-editor"), []string{"log", "proof", "restart", "recreate"}},
	}
	people := map[string]person{}
	names := slices.Sorted(maps.Keys(personas))
	slices.SortStableFunc(names, func(x, y string) int { return last(x) - last(y) })
	order := slices.Sorted(maps.Keys(actions))
	slices.SortStableFunc(order, func(x, y string) int { return last(x) - last(y) })
	for _, name := range names {
		people[name] = signIn(t, name)
		personas[name].grant(t, people[name])
	}
	for _, name := range names {
		for _, what := range personas[name].may {
			awaitRight(t, c, people[name], ns, actions[what])
		}
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			for _, what := range order {
				if slices.Contains(personas[name].may, what) {
					wantOpen(t, people[name], b, what)
				} else {
					wantClosed(t, people[name], b, what)
				}
			}
		})
	}
	t.Run("audit", func(t *testing.T) {
		for name, p := range people {
			wantAudited(t, c, p, b, func(what string) bool {
				// The API server does not know that a WebSocket needs create, too.
				return slices.Contains(personas[name].may, what) || name == "get-only" && strings.HasSuffix(what, "by WebSocket")
			})
		}
	})
}

// last is what sorts restart and recreate behind everything else: afterwards, the
// Bottle does not run for a while.
func last(name string) int {
	return slices.Index([]string{"restart", "recreate", "bottle-editor"}, name) + 1
}

func clusterRole(namespace, role string) func(t *testing.T, p person) {
	return func(t *testing.T, p person) { grant(t, namespace, p, "ClusterRole", role) }
}

func wantOpen(t *testing.T, p person, b *bottles.Bottle, what string) {
	t.Helper()
	a := actions[what]
	code, body := p.try(t, b, a)
	if a.subresource == "attach" && !runsCommands(t) {
		// The user may try. Other tests are about what comes of it: where smolvm runs no
		// commands, there is nothing to attach to.
		if code == http.StatusForbidden || code == http.StatusUnauthorized {
			t.Errorf("%s by %s: got %d %s, want it not forbidden", what, p.name, code, body)
		}
		return
	}
	if code != http.StatusSwitchingProtocols && code/100 != 2 {
		t.Errorf("%s by %s: got %d %s, want it allowed", what, p.name, code, body)
	}
}

func wantClosed(t *testing.T, p person, b *bottles.Bottle, what string) {
	t.Helper()
	code, body := p.try(t, b, actions[what])
	wantForbidden(t, what+" by "+p.name, code, body)
}

func wantForbidden(t *testing.T, what string, code int, body string) {
	t.Helper()
	status := &metav1.Status{}
	if err := json.Unmarshal([]byte(body), status); err != nil || code != http.StatusForbidden || status.Reason != metav1.StatusReasonForbidden {
		t.Errorf("%s: got %d %s, want it forbidden", what, code, body)
	}
}

// runsCommands reports whether the cluster's smolvm runs a Bottle's command, which
// smolvm before 1.9 does not.
func runsCommands(t *testing.T) bool {
	t.Helper()
	version, err := os.ReadFile(filepath.Join(connect(t).Dir, "standin"))
	if err != nil {
		t.Fatal(err)
	}
	return !strings.HasPrefix(string(version), "0.") && !strings.HasPrefix(string(version), "1.7.")
}

// wantAudited fails the test unless the audit log of the API server has every action,
// by the user, on the Bottle, with what RBAC decided.
func wantAudited(t *testing.T, c *story.Cluster, p person, b *bottles.Bottle, allowed func(what string) bool) {
	t.Helper()
	key := func(verb, subresource, decision string) string { return verb + " " + subresource + " " + decision }
	c.Eventually(t, "the audit log to have all that "+p.name+" did", func() (string, bool) {
		found := map[string]bool{}
		for _, e := range auditEvents(t, c, p.name) {
			if o := e.ObjectRef; o != nil && o.APIGroup == bottlesAPI && o.Resource == "bottles" && o.Namespace == b.Namespace && o.Name == b.Name {
				found[key(e.Verb, o.Subresource, e.Annotations["authorization.k8s.io/decision"])] = true
			}
		}
		for what, a := range actions {
			decision := map[bool]string{true: "allow", false: "forbid"}[allowed(what)]
			if want := key(a.verb(), a.subresource, decision); !found[want] {
				return fmt.Sprintf("got %v, want %q", slices.Sorted(maps.Keys(found)), want), false
			}
		}
		return "", true
	})
}

var bottlesAPI = v1alpha1.GroupVersion.Group

// auditEvents returns what the API server recorded about a user.
func auditEvents(t *testing.T, c *story.Cluster, user string) (out []auditv1.Event) {
	t.Helper()
	f, err := os.Open(filepath.Join(c.Dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !strings.Contains(lines.Text(), user) {
			continue
		}
		var e auditv1.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // the last line may be incomplete
		}
		if e.User.Username == user {
			out = append(out, e)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// What a user may do in one namespace opens nothing in another. An agent may not use
// any Bottle, whether on its node or not, and neither may a ServiceAccount of the
// Bottle's own namespace.
func testOthers(t *testing.T, c *story.Cluster, b *bottles.Bottle) {
	ns := b.Namespace
	neighbour := signIn(t, "neighbour")
	grant(t, c.Namespace(t), neighbour, "ClusterRole", "bottle-access")
	create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "worker"}})
	anonymous := tokenConfig(t, "")
	system := c.SystemNamespace(t)
	people := []person{
		neighbour,
		newPerson("the agent of the node", tokenConfig(t, accountToken(t, system, agentAccount, node))),
		newPerson("the agent of another node", tokenConfig(t, accountToken(t, system, agentAccount, otherNode(t)))),
		newPerson("an agent of no node", tokenConfig(t, accountToken(t, system, agentAccount, ""))),
		newPerson("the manager", tokenConfig(t, accountToken(t, system, "bottle-manager", ""))),
		newPerson("an account of the namespace", tokenConfig(t, accountToken(t, ns, "worker", ""))),
		newPerson("nobody", anonymous),
	}
	for _, p := range people {
		for what := range actions {
			wantClosed(t, p, b, what)
		}
	}
	forged := tokenConfig(t, "eyJhbGciOiJub25lIn0.e30.")
	if code, body := newPerson("forged", forged).try(t, b, actions["exec by POST"]); code != http.StatusUnauthorized {
		t.Errorf("a forged token: got %d %s, want 401", code, body)
	}
}

// Nobody without a node gets environments, whatever RBAC allows.
func testEnvironments(t *testing.T, c *story.Cluster, b *bottles.Bottle) {
	ns := b.Namespace
	paths := []string{accessAPI + "/bottleenvironments", accessAPI + "/namespaces/" + ns + "/bottleenvironments"}

	admin(t, ns)
	boss := newPerson("the administrator", tokenConfig(t, accountToken(t, ns, "administrator", "")))
	everything := signIn(t, "all-of-bottles")
	grantVerbs(t, ns, everything, []string{"bottles", "bottles/exec", "bottles/attach", "bottleenvironments"}, "*")
	for _, p := range []person{boss, everything, newPerson("the manager", tokenConfig(t, accountToken(t, c.SystemNamespace(t), "bottle-manager", "")))} {
		for _, path := range paths {
			for _, query := range []string{"", "?watch=true", "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"} {
				code, body := p.request(t, http.MethodGet, path+query, "", "")
				wantForbidden(t, path+query+" by "+p.name, code, body)
			}
		}
	}
}

// Both protocols work through each replica alone. What the managers and the agent log
// about a session names the user and has nothing of the session.
func testEachManager(t *testing.T, c *story.Cluster, b *bottles.Bottle) {
	p := signIn(t, "visitor")
	grant(t, b.Namespace, p, "ClusterRole", "bottle-access")
	marker := "content-" + rand.Text()
	for _, stopped := range []string{"1", "2"} {
		func() {
			c.Run(t, "manager-stop", stopped)
			defer c.Run(t, "manager-start", stopped)
			for _, protocol := range []string{spdy, websocket} {
				c.Eventually(t, protocol+" without manager "+stopped, func() (string, bool) {
					got, err := p.run(t, b, protocol, "echo", marker)
					// The API server learns of the endpoints a moment later.
					return fmt.Sprintf("%q (%v)", got, err), err == nil && got == marker+"\n"
				})
			}
		}()
	}
	logs := map[string]string{"agent": c.AgentLog(t, node)}
	for _, number := range []string{"1", "2"} {
		out, err := exec.Command(filepath.Join(c.Dir, "manager-log"), number).Output()
		if err != nil {
			t.Fatal(err)
		}
		logs["manager "+number] = string(out)
	}
	for who, log := range logs {
		if strings.Contains(log, marker) {
			t.Errorf("log of %s: got %s in it, want nothing of the session's content", who, marker)
		}
		if strings.HasPrefix(who, "manager") && !hasLine(log, "access-audit", p.name, string(b.UID), b.Name) {
			t.Errorf("log of %s: got no access-audit line with %s and %s, want one", who, p.name, b.UID)
		}
	}
}

func hasLine(log string, words ...string) bool {
	for line := range strings.Lines(log) {
		if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
			return true
		}
	}
	return false
}

// Namespaces can be deleted while the access API is served, and after its APIService
// was removed, as when the operator is uninstalled.
func TestNamespacesAreDeleted(t *testing.T) {
	c := connect(t)
	deleteOne := func() {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "authz-"}}
		if err := c.Create(t.Context(), ns); err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(t.Context(), ns); err != nil {
			t.Fatal(err)
		}
		c.Eventually(t, "namespace "+ns.Name+" to be gone", func() (string, bool) {
			err := c.Get(t.Context(), client.ObjectKeyFromObject(ns), ns)
			return fmt.Sprint(ns.Status, err), apierrors.IsNotFound(err)
		})
	}
	deleteOne()
	service := &unstructured.Unstructured{}
	service.SetAPIVersion("apiregistration.k8s.io/v1")
	service.SetKind("APIService")
	key := client.ObjectKey{Name: "v1alpha1.subresources.botbottle.dev"}
	if err := c.Get(t.Context(), key, service); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), service); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		service.SetResourceVersion("")
		service.SetUID("")
		if err := c.Create(context.Background(), service); err != nil {
			t.Error(err)
		}
		c.Eventually(t, "the access API to be available again", func() (string, bool) {
			err := c.Get(context.Background(), key, service)
			conditions, _, _ := unstructured.NestedSlice(service.Object, "status", "conditions")
			for _, condition := range conditions {
				if m, ok := condition.(map[string]any); ok && m["type"] == "Available" && m["status"] == "True" {
					return "", true
				}
			}
			return fmt.Sprint(conditions, err), false
		})
	})
	deleteOne()
}
