// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/remotecommand"
	clientexec "k8s.io/client-go/util/exec"
	server "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/clock"
	utilexec "k8s.io/utils/exec"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/accessapi"
	"botbottle.dev/bottle-operator/test/api/apienv"
	"botbottle.dev/bottle-operator/test/builders"
)

// guest is what the fake agent runs.
type guest func(in io.Reader, out io.Writer) error

func (f guest) ExecInContainer(_ context.Context, _, _, _ string, _ []string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan server.TerminalSize, _ time.Duration) error {
	return f(in, out)
}

// startAccess runs the API server of a manager, with the manager's rights, behind the
// real API server, and an agent that echoes and then exits with 3. It returns the
// agent's node.
func startAccess(t *testing.T, cfg *rest.Config) string {
	t.Helper()
	admin := apienv.Client(t, cfg)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	address := listener.Addr().(*net.TCPAddr)
	must(t, listener.Close())

	// A name is the only way to a loopback address: endpoints may not have any.
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: apienv.SystemNamespace, Name: "bottle-manager-access"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"}}
	must(t, admin.Create(t.Context(), service))
	t.Cleanup(func() { must(t, admin.Delete(context.Background(), service)) })
	objects, err := apienv.Manifests("config/apiservice")
	must(t, err)
	must(t, unstructured.SetNestedField(objects[0].Object, int64(address.Port), "spec", "service", "port"))
	must(t, admin.Create(t.Context(), objects[0]))
	t.Cleanup(func() { must(t, admin.Delete(context.Background(), objects[0])) })

	authority := startAuthority(t, cfg)
	manager := apienv.AsServiceAccount(cfg, "bottle-manager")
	kube, err := kubernetes.NewForConfig(manager)
	must(t, err)
	direct := apienv.Client(t, manager)
	access, err := accessapi.New(accessapi.Options{
		Address: address.String(), Namespace: apienv.SystemNamespace, Client: direct, Cache: direct, Kubernetes: kube,
		Serving: authority.Serving(), Ready: authority.Ready(), AgentTLS: authority.ClientConfig,
		Registerer: prometheus.NewRegistry(), Clock: clock.RealClock{}, Log: logr.Discard(),
	})
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- access.Start(t.Context()) }()
	t.Cleanup(func() { must(t, <-ended) })

	agentConfig, node := boundToken(t, cfg)
	keeper := keeperOf(t, agentConfig, node)
	agent := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/log") {
			io.WriteString(w, "a line\n")
			return
		}
		server.ServeExec(w, r, guest(func(in io.Reader, out io.Writer) error {
			if _, err := io.Copy(out, in); err != nil {
				return err
			}
			return utilexec.CodeExitError{Err: errors.New("exit"), Code: 3}
		}), "", "", "", nil, &server.Options{Stdin: true, Stdout: true}, 0, time.Minute, server.SupportedStreamingProtocols)
	}))
	agent.TLS = keeper.ServerConfig()
	agent.StartTLS()
	t.Cleanup(agent.Close)
	object := &corev1.Node{}
	must(t, admin.Get(t.Context(), client.ObjectKey{Name: node}, object))
	object.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: agent.Listener.Addr().(*net.TCPAddr).IP.String()}}
	must(t, admin.Status().Update(t.Context(), object))
	must(t, admin.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
		Namespace: apienv.SystemNamespace, Name: "bottle-agent-" + node, Annotations: map[string]string{v1alpha1.AnnotationAgentAddress: agent.Listener.Addr().String()},
	}}))
	gomega.NewWithT(t).Eventually(func() bool {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(objects[0].GroupVersionKind())
		must(t, admin.Get(t.Context(), client.ObjectKeyFromObject(objects[0]), u))
		conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
		for _, c := range conditions {
			if c, ok := c.(map[string]any); ok && c["type"] == "Available" && c["status"] == "True" {
				return keeper.Ready()
			}
		}
		return false
	}, 2*time.Minute, 100*time.Millisecond).Should(gomega.BeTrue(), "the APIService becomes available")
	return node
}

// Through the real API server, each verb is permitted and refused as its RBAC says, by
// both of client-go's ways to stream; kubectl finds the API, and "bottles" still means
// the Bottles themselves.
func TestAccess(t *testing.T) {
	cfg := apienv.Start(t)
	admin := apienv.Client(t, cfg)
	node := startAccess(t, cfg)
	ns := apienv.Namespace(t, admin)
	b := builders.MakeBottle("a").Namespace(ns).Slug("a").Image("registry.example/a:1").Obj()
	must(t, admin.Create(t.Context(), b))
	defer func() { must(t, admin.Delete(context.Background(), b)) }()
	b.Status = builders.MakeBottle("a").On(node).
		Condition(metav1.Condition{Type: v1alpha1.ConditionMachineReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, LastTransitionTime: metav1.Now()}).Obj().Status
	must(t, admin.Status().Update(t.Context(), b))

	must(t, admin.Create(t.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "only-get"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"subresources.botbottle.dev"}, Resources: []string{"bottles/exec", "bottles/attach"}, Verbs: []string{"get"}}}}))
	users := map[string]*rest.Config{}
	for _, role := range []string{"bottle-viewer", "bottle-editor", "bottle-access", "only-get"} {
		kind := "ClusterRole"
		if role == "only-get" {
			kind = "Role"
		}
		must(t, admin.Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: role},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: ns + role}}}))
		users[role] = rest.CopyConfig(cfg)
		users[role].Impersonate = rest.ImpersonationConfig{UserName: ns + role, Groups: []string{"system:authenticated"}}
	}
	path := strings.TrimRight(cfg.Host, "/") + "/apis/subresources.botbottle.dev/v1alpha1/namespaces/" + ns + "/bottles/a/"

	for _, verb := range []string{"exec", "attach"} {
		for role, user := range users {
			for protocol, executor := range map[string]func(*rest.Config, *url.URL) (remotecommand.Executor, error){
				"SPDY": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
					return remotecommand.NewSPDYExecutor(c, http.MethodPost, u)
				},
				"WebSocket": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
					return remotecommand.NewWebSocketExecutorForProtocols(c, http.MethodGet, u.String(), "v5.channel.k8s.io")
				},
			} {
				u, err := url.Parse(path + verb + "?command=cat&stdin=true&stdout=true")
				must(t, err)
				e, err := executor(user, u)
				must(t, err)
				out := &bytes.Buffer{}
				err = e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: out})
				var exit clientexec.CodeExitError
				switch allowed := errors.As(err, &exit) && exit.Code == 3 && out.String() == "hello"; {
				case role == "bottle-access" && !allowed:
					t.Errorf("%s by %s as %s: got %v and %q, want the echo and exit code 3", verb, protocol, role, err, out)
				case role != "bottle-access" && (err == nil || !strings.Contains(err.Error(), "orbidden")):
					t.Errorf("%s by %s as %s: got %v, want Forbidden", verb, protocol, role, err)
				}
			}
		}
	}
	for _, c := range []struct {
		method, verb string
		roles        string
		want         int
	}{
		{http.MethodGet, "log", "bottle-viewer bottle-editor bottle-access", http.StatusOK},
		{http.MethodPost, "restart", "bottle-editor", http.StatusCreated},
		{http.MethodPost, "recreate", "bottle-editor", http.StatusCreated},
	} {
		for role, user := range users {
			web, err := rest.HTTPClientFor(user)
			must(t, err)
			u, err := url.Parse(path + c.verb)
			must(t, err)
			r, err := http.NewRequestWithContext(t.Context(), c.method, u.String(), strings.NewReader("{}"))
			must(t, err)
			r.Header.Set("Content-Type", "application/json")
			response, err := web.Do(r)
			must(t, err)
			body, err := io.ReadAll(response.Body)
			must(t, errors.Join(err, response.Body.Close()))
			want := http.StatusForbidden
			if strings.Contains(c.roles, role) {
				want = c.want
			}
			if response.StatusCode != want {
				t.Errorf("%s as %s: got %d %s, want %d", c.verb, role, response.StatusCode, body, want)
			}
		}
	}
	must(t, admin.Get(t.Context(), client.ObjectKeyFromObject(b), b))
	if b.Annotations[v1alpha1.AnnotationRestartedAt] == "" || b.Annotations[v1alpha1.AnnotationRecreatedAt] == "" {
		t.Errorf("got annotations %v, want restartedAt and recreatedAt", b.Annotations)
	}
	kubectlFindsAccess(t, cfg, ns)
}

func kubectlFindsAccess(t *testing.T, cfg *rest.Config, ns string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(api.Config{
		CurrentContext: "test", Contexts: map[string]*api.Context{"test": {Cluster: "test", AuthInfo: "test"}},
		Clusters:  map[string]*api.Cluster{"test": {Server: cfg.Host, CertificateAuthorityData: cfg.CAData}},
		AuthInfos: map[string]*api.AuthInfo{"test": {ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}},
	}, file))
	for args, want := range map[string]string{
		"get bottles -n " + ns + " -o name":                   "bottle.botbottle.dev/a",
		"get bottle a -n " + ns + " -o name":                  "bottle.botbottle.dev/a",
		"get --raw /apis/subresources.botbottle.dev/v1alpha1": "bottles/exec",
	} {
		command := exec.CommandContext(t.Context(), filepath.Join(apienv.Assets(t), "kubectl"), append([]string{"--kubeconfig", file, "--cache-dir", t.TempDir()}, strings.Fields(args)...)...)
		out, err := command.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("kubectl %s: got %v %s, want %q", args, err, out, want)
		}
	}
}
