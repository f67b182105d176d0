// SPDX-License-Identifier: Apache-2.0

package authz_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/story"
)

const accessAPI = "/apis/subresources.botbottle.dev/v1alpha1"

// person is somebody who signs in with a client certificate or a token.
type person struct {
	name   string // as the API server knows the person
	config *rest.Config
}

// signIn makes a user with a client certificate and without rights. Other tests use
// other users of the same name, so that each finds only its own lines in the logs.
func signIn(t *testing.T, name string) person {
	t.Helper()
	name += "." + strings.ToLower(rand.Text()[:8])
	config, err := clientcmd.BuildConfigFromFlags("", makeUser(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return newPerson(name, config)
}

// makeUser makes a user with a client certificate, and returns the path of the
// kubeconfig. The certificate is in the folder pki/users.
func makeUser(t *testing.T, name string) (kubeconfig string) {
	t.Helper()
	out, err := exec.Command(filepath.Join(connect(t).Dir, "user"), name).CombinedOutput()
	if err != nil {
		t.Fatalf("user %s: %v\n%s", name, err, out)
	}
	return strings.TrimSpace(string(out))
}

func newPerson(name string, config *rest.Config) person {
	// Only HTTP/1.1 has upgrades.
	config.NextProtos = []string{"http/1.1"}
	return person{name: name, config: config}
}

// grant gives a user a role in a namespace.
func grant(t *testing.T, namespace string, p person, kind, role string) {
	t.Helper()
	create(t, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: p.name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: p.name}},
	})
}

// grantVerbs gives a user verbs on resources of the access API.
func grantVerbs(t *testing.T, namespace string, p person, resources []string, verbs ...string) {
	t.Helper()
	create(t, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: p.name}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"subresources.botbottle.dev"}, Resources: resources, Verbs: verbs},
	}})
	grant(t, namespace, p, "Role", p.name)
}

// action is a request of the access API for a Bottle.
type action struct {
	method, subresource, query, protocol string
	body                                 string
}

const (
	spdy      = "SPDY/3.1"
	websocket = "websocket"
)

// actions are all requests that the access API knows for a Bottle. "get" and "create"
// are what the API server makes of the method.
var actions = map[string]action{
	"exec by POST":        {http.MethodPost, "exec", "command=true&stdout=true", spdy, ""},
	"exec by WebSocket":   {http.MethodGet, "exec", "command=true&stdout=true", websocket, ""},
	"attach by POST":      {http.MethodPost, "attach", "stdout=true", spdy, ""},
	"attach by WebSocket": {http.MethodGet, "attach", "stdout=true", websocket, ""},
	"log":                 {http.MethodGet, "log", "tailLines=1", "", ""},
	"proof":               {http.MethodPost, "proof", "", "", `{"apiVersion":"subresources.botbottle.dev/v1alpha1","kind":"BottleProof"}`},
	"restart":             {http.MethodPost, "restart", "", "", `{"apiVersion":"subresources.botbottle.dev/v1alpha1","kind":"BottleAction"}`},
	"recreate":            {http.MethodPost, "recreate", "", "", `{"apiVersion":"subresources.botbottle.dev/v1alpha1","kind":"BottleAction"}`},
}

// awaitRight waits until the API server knows that a user may do something: it learns of
// roles and bindings a little later than it accepts them.
func awaitRight(t *testing.T, c *story.Cluster, p person, namespace string, a action) {
	t.Helper()
	c.Eventually(t, p.name+" to get the right to "+a.verb()+" "+a.subresource, func() (string, bool) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: p.name, Groups: []string{"system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: namespace, Verb: a.verb(), Group: "subresources.botbottle.dev", Version: "v1alpha1", Resource: "bottles", Subresource: a.subresource,
			},
		}}
		if err := c.Create(t.Context(), review); err != nil {
			return err.Error(), false
		}
		return review.Status.Reason, review.Status.Allowed
	})
}

func (a action) verb() string {
	if a.method == http.MethodPost {
		return "create"
	}
	return "get"
}

func subresourcePath(b *v1alpha1.Bottle, subresource string) string {
	return accessAPI + "/namespaces/" + b.Namespace + "/bottles/" + b.Name + "/" + subresource
}

// try sends a request and returns the status code and the beginning of the body. It
// ends a session that was opened.
func (p person) try(t *testing.T, b *v1alpha1.Bottle, a action) (code int, body string) {
	t.Helper()
	return p.request(t, a.method, subresourcePath(b, a.subresource)+"?"+a.query, a.protocol, a.body)
}

func (p person) request(t *testing.T, method, path, protocol, body string) (code int, answer string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, p.config.Host+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	switch protocol {
	case spdy:
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", spdy)
		r.Header.Set("X-Stream-Protocol-Version", "v4.channel.k8s.io")
	case websocket:
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", websocket)
		r.Header.Set("Sec-WebSocket-Version", "13")
		r.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
		r.Header.Set("Sec-WebSocket-Protocol", "v5.channel.k8s.io")
	}
	httpClient, err := rest.HTTPClientFor(p.config)
	if err != nil {
		t.Fatal(err)
	}
	response, err := httpClient.Do(r)
	if err != nil {
		t.Fatalf("%s %s by %s: %v", method, path, p.name, err)
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return response.StatusCode, ""
	}
	start, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
	return response.StatusCode, string(start)
}

// run runs a command in the guest with client-go's executor for the protocol, and
// returns its output.
func (p person) run(t *testing.T, b *v1alpha1.Bottle, protocol string, argv ...string) (string, error) {
	t.Helper()
	query := url.Values{"command": argv, "stdout": {"true"}, "stderr": {"true"}}
	u, err := url.Parse(p.config.Host + subresourcePath(b, "exec") + "?" + query.Encode())
	if err != nil {
		t.Fatal(err)
	}
	var executor remotecommand.Executor
	if protocol == websocket {
		executor, err = remotecommand.NewWebSocketExecutor(p.config, http.MethodGet, u.String())
	} else {
		executor, err = remotecommand.NewSPDYExecutor(p.config, http.MethodPost, u)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	var stdout, stderr strings.Builder
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	return stdout.String() + stderr.String(), err
}

// workingBottle returns a Bottle that runs on the node, with a command if smolvm can.
func workingBottle(t *testing.T, ns string) *v1alpha1.Bottle {
	t.Helper()
	c := connect(t)
	b := builders.MakeBottle("worker").Namespace(ns).CPUs(1).Memory("256Mi").Pin(node).Obj()
	if runsCommands(t) {
		b.Spec.Command = []string{"sh", "-c", "echo started; exec sleep 3600"}
	}
	c.Apply(t, b)
	c.WaitFor(t, b, "to run", func() bool { return story.Running(b) })
	return b
}

// dialThrough returns a connection through the streams of a command.
func dialThrough(t *testing.T, argv ...string) net.Conn {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	go func() {
		_, _ = io.Copy(in, far)
		_ = in.Close()
	}()
	go func() {
		_, _ = io.Copy(far, out)
		_ = far.Close()
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = near.Close()
		_ = far.Close()
		_ = cmd.Process.Kill()
	})
	_ = near.SetDeadline(time.Now().Add(timeout))
	return near
}

// fromControl connects from the namespace of the API server and the managers.
func fromControl(t *testing.T, address string) net.Conn {
	t.Helper()
	host, port, _ := net.SplitHostPort(address)
	return dialThrough(t, filepath.Join(connect(t).Dir, "control-exec"), "nc", host, port)
}

// fromNode connects from a node.
func fromNode(t *testing.T, address string) net.Conn {
	t.Helper()
	host, port, _ := net.SplitHostPort(address)
	return dialThrough(t, filepath.Join(connect(t).Dir, "exec"), node, "nc", host, port)
}

// authority is a CA that a test signs certificates with.
type authority struct{ tls.Certificate }

// ownAuthority returns a CA that nobody trusts.
func ownAuthority(t *testing.T) authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return authority{sign(t, template, nil)}
}

// operatorAuthority returns the CA of the operator, from its Secret.
func operatorAuthority(t *testing.T) (authority, *x509.CertPool) {
	t.Helper()
	c := connect(t)
	secret := &corev1.Secret{}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: c.SystemNamespace(t), Name: "bottle-access-ca"}, secret); err != nil {
		t.Fatal(err)
	}
	ca, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.Leaf)
	return authority{ca}, pool
}

// leaf returns a certificate that the CA signs.
func (a authority) leaf(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "bottle-manager"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	change(template)
	return sign(t, template, &a.Certificate)
}

// sign signs a certificate. Without a CA, the certificate signs itself.
func sign(t *testing.T, template *x509.Certificate, ca *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, parentKey := template, any(key)
	if ca != nil {
		parent, parentKey = ca.Leaf, ca.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}
}
