// SPDX-License-Identifier: Apache-2.0

package plugin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/plugin"
)

// limit is how long anything in these tests may take.
const limit = time.Minute

// session is one exec or attach, as the fake API server sees it.
type session struct {
	bottle    string
	command   []string // nil for attach
	query     url.Values
	in        io.Reader
	out, err  io.Writer
	tty       bool
	resize    <-chan remotecommand.TerminalSize
	ctx       context.Context
	websocket bool
}

// cluster is a fake API server with Bottles and their subresources. Sessions go through
// the same code as in the manager: a WebSocket is translated to SPDY.
type cluster struct {
	t *testing.T
	*httptest.Server
	kubeconfig string

	// guest runs the command of a session and returns its exit code.
	guest func(*session) int
	// log writes a log.
	log func(ctx context.Context, o url.Values, w io.Writer)
	// refuse has answers for requests to "METHOD SUBRESOURCE"; each is given once.
	refuse map[string][]metav1.Status
	// changed is called after a Bottle was written by the plugin, without the lock.
	changed      func(*v1alpha1.Bottle)
	proof        subresources.BottleProof
	noWebSockets bool
	noSPDY       bool

	mu       sync.Mutex
	bottles  map[string]*v1alpha1.Bottle
	version  int
	news     chan struct{} // closed at the next change
	requests []string
	sessions []*session
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, bottles: map[string]*v1alpha1.Bottle{}, refuse: map[string][]metav1.Status{}, news: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("/", c.discover)
	const base = "/apis/botbottle.dev/v1alpha1/namespaces/{ns}/bottles"
	mux.HandleFunc("GET "+base, c.list)
	mux.HandleFunc("POST "+base, c.create)
	mux.HandleFunc("GET "+base+"/{name}", c.get)
	mux.HandleFunc("PATCH "+base+"/{name}", c.patch)
	mux.HandleFunc("DELETE "+base+"/{name}", c.delete)
	const sub = "/apis/subresources.botbottle.dev/v1alpha1/namespaces/{ns}/bottles/{name}/{sub}"
	mux.HandleFunc(sub, c.subresource)
	mux.HandleFunc("POST /agent/{name}/{sub}", func(w http.ResponseWriter, r *http.Request) { c.stream(w, r, true) })
	mux.HandleFunc("GET /api/v1/namespaces/{ns}/secrets/{name}", func(w http.ResponseWriter, r *http.Request) {
		write(w, 200, &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, Data: map[string][]byte{"TOKEN": []byte("s3cret"), "USER": nil}})
	})
	c.Server = httptest.NewServer(mux)
	t.Cleanup(c.Close)
	c.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"x","contexts":[{"name":"x","context":{"cluster":"x","user":"x","namespace":"team"}}],"clusters":[{"name":"x","cluster":{"server":%q}}],"users":[{"name":"x","user":{}}]}`, c.URL)
	if err := os.WriteFile(c.kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// call is the result of one call of the plugin.
type call struct {
	code        int
	out, errOut string
}

// buffer can be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// bottle runs the plugin without input.
func (c *cluster) bottle(args ...string) call { return c.input("", args...) }

// input runs the plugin with input.
func (c *cluster) input(in string, args ...string) call {
	c.t.Helper()
	return c.start(strings.NewReader(in), nil, args...).wait(c.t)
}

// running is a call that has not ended yet.
type running struct {
	out, errOut *buffer
	code        chan int
}

func (c *cluster) start(in io.Reader, signals <-chan os.Signal, args ...string) *running {
	r := &running{out: &buffer{}, errOut: &buffer{}, code: make(chan int, 1)}
	go func() {
		r.code <- plugin.Run(plugin.Invocation{
			Args:    append([]string{"kubectl-bottle", "--kubeconfig", c.kubeconfig, "--cache-dir", c.t.TempDir()}, args...),
			Streams: genericiooptions.IOStreams{In: in, Out: r.out, ErrOut: r.errOut}, Signals: signals,
			RetryPause: 10 * time.Millisecond,
		})
	}()
	return r
}

func (r *running) wait(t *testing.T) call {
	t.Helper()
	select {
	case code := <-r.code:
		return call{code, r.out.String(), r.errOut.String()}
	case <-time.After(limit):
		t.Fatalf("the plugin has not ended: stdout %q, stderr %q", r.out, r.errOut)
		return call{}
	}
}

// put adds or replaces a Bottle.
func (c *cluster) put(b *v1alpha1.Bottle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(b)
}

func (c *cluster) putLocked(b *v1alpha1.Bottle) {
	b.APIVersion, b.Kind = "botbottle.dev/v1alpha1", "Bottle"
	b.Namespace = "team"
	c.version++
	b.ResourceVersion = strconv.Itoa(c.version)
	if b.UID == "" {
		b.UID = types.UID("uid-" + b.ResourceVersion)
	}
	c.bottles[b.Name] = b.DeepCopy()
	close(c.news)
	c.news = make(chan struct{})
}

// change changes a Bottle.
func (c *cluster) change(name string, change func(*v1alpha1.Bottle)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.bottles[name]; b != nil {
		b = b.DeepCopy()
		change(b)
		c.putLocked(b)
	}
}

// find returns a Bottle, or nil.
func (c *cluster) find(name string) *v1alpha1.Bottle {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bottles[name].DeepCopy()
}

func write(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object)
}

func status(code int32, reason metav1.StatusReason, message string) metav1.Status {
	return metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Code: code, Reason: reason, Message: message}
}

// refused gives the next answer that a test has prepared for a request.
func (c *cluster) refused(w http.ResponseWriter, what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, what)
	answers := c.refuse[what]
	if len(answers) == 0 {
		return false
	}
	c.refuse[what] = answers[1:]
	write(w, int(answers[0].Code), answers[0])
	return true
}

func (c *cluster) discover(w http.ResponseWriter, r *http.Request) {
	version := metav1.GroupVersionForDiscovery{GroupVersion: "botbottle.dev/v1alpha1", Version: "v1alpha1"}
	switch r.URL.Path {
	case "/api":
		write(w, 200, metav1.APIVersions{Versions: []string{"v1"}})
	case "/apis":
		write(w, 200, metav1.APIGroupList{Groups: []metav1.APIGroup{{Name: "botbottle.dev", Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version}}})
	case "/api/v1/namespaces/team":
		write(w, 200, corev1.Namespace{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: "team"}})
	case "/api/v1":
		write(w, 200, metav1.APIResourceList{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "namespaces", Kind: "Namespace", Verbs: metav1.Verbs{"get"}}}})
	case "/apis/botbottle.dev/v1alpha1":
		write(w, 200, metav1.APIResourceList{GroupVersion: "botbottle.dev/v1alpha1", APIResources: []metav1.APIResource{
			{Name: "bottles", SingularName: "bottle", Namespaced: true, Kind: "Bottle", Verbs: metav1.Verbs{"get", "list", "watch"}, ShortNames: []string{"btl"}}}})
	default:
		write(w, 404, status(404, metav1.StatusReasonNotFound, "no such path: "+r.URL.Path))
	}
}

func (c *cluster) list(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") != "" && r.URL.Query().Get("watch") != "false" {
		c.watch(w, r)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	list := &v1alpha1.BottleList{TypeMeta: metav1.TypeMeta{APIVersion: "botbottle.dev/v1alpha1", Kind: "BottleList"}, ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(c.version)}}
	rows := metav1.Table{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "Table"}, ColumnDefinitions: []metav1.TableColumnDefinition{{Name: "Name", Type: "string", Format: "name"}, {Name: "Slug", Type: "string"}}}
	for _, b := range c.bottles {
		list.Items = append(list.Items, *b)
		raw, _ := json.Marshal(&metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadata"}, ObjectMeta: metav1.ObjectMeta{Name: b.Name, Namespace: b.Namespace}})
		rows.Rows = append(rows.Rows, metav1.TableRow{Cells: []any{b.Name, b.Spec.Slug}, Object: runtime.RawExtension{Raw: raw}})
	}
	if strings.Contains(r.Header.Get("Accept"), "as=Table") {
		write(w, 200, rows)
		return
	}
	write(w, 200, list)
}

// watch sends the Bottle that the field selector names whenever it has changed.
func (c *cluster) watch(w http.ResponseWriter, r *http.Request) {
	_, name, _ := strings.Cut(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	seen := r.URL.Query().Get("resourceVersion")
	w.Header().Set("Content-Type", "application/json")
	w.(http.Flusher).Flush()
	last := &v1alpha1.Bottle{TypeMeta: metav1.TypeMeta{APIVersion: "botbottle.dev/v1alpha1", Kind: "Bottle"}}
	for {
		c.mu.Lock()
		b, news := c.bottles[name], c.news
		c.mu.Unlock()
		event := ""
		switch {
		case b == nil:
			event, b = "DELETED", last
		case b != nil && b.ResourceVersion != seen:
			event, seen = "MODIFIED", b.ResourceVersion
		}
		if event != "" {
			_ = json.NewEncoder(w).Encode(map[string]any{"type": event, "object": b})
			w.(http.Flusher).Flush()
		}
		if event == "DELETED" {
			return
		}
		last = b
		select {
		case <-news:
		case <-r.Context().Done():
			return
		}
	}
}

func (c *cluster) create(w http.ResponseWriter, r *http.Request) {
	if c.refused(w, "POST") {
		return
	}
	b := &v1alpha1.Bottle{}
	if err := json.NewDecoder(r.Body).Decode(b); err != nil {
		write(w, 400, status(400, metav1.StatusReasonBadRequest, err.Error()))
		return
	}
	if c.find(b.Name) != nil {
		write(w, 409, status(409, metav1.StatusReasonAlreadyExists, fmt.Sprintf("bottles.botbottle.dev %q already exists", b.Name)))
		return
	}
	c.put(b)
	write(w, 201, c.find(b.Name))
	c.tell(b.Name)
}

func (c *cluster) tell(name string) {
	if b := c.find(name); b != nil && c.changed != nil {
		c.changed(b)
	}
}

func (c *cluster) get(w http.ResponseWriter, r *http.Request) {
	if c.refused(w, "GET") {
		return
	}
	b := c.find(r.PathValue("name"))
	if b == nil {
		write(w, 404, status(404, metav1.StatusReasonNotFound, fmt.Sprintf("bottles.botbottle.dev %q not found", r.PathValue("name"))))
		return
	}
	write(w, 200, b)
}

func (c *cluster) patch(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	b := c.find(name)
	if c.refused(w, "PATCH") {
		return
	}
	if b == nil {
		write(w, 404, status(404, metav1.StatusReasonNotFound, fmt.Sprintf("bottles.botbottle.dev %q not found", name)))
		return
	}
	var patch struct {
		Metadata struct{ Annotations map[string]*string }
		Spec     struct{ DesiredState v1alpha1.DesiredState }
	}
	if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
		write(w, 400, status(400, metav1.StatusReasonBadRequest, err.Error()))
		return
	}
	for key, value := range patch.Metadata.Annotations {
		if value == nil {
			delete(b.Annotations, key)
		}
	}
	if patch.Spec.DesiredState != "" {
		b.Spec.DesiredState = patch.Spec.DesiredState
	}
	c.put(b)
	write(w, 200, c.find(name))
	c.tell(name)
}

func (c *cluster) delete(w http.ResponseWriter, r *http.Request) {
	if c.refused(w, "DELETE") {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.bottles, r.PathValue("name"))
	close(c.news)
	c.news = make(chan struct{})
	write(w, 200, metav1.Status{Status: "Success"})
}

func (c *cluster) subresource(w http.ResponseWriter, r *http.Request) {
	sub, name := r.PathValue("sub"), r.PathValue("name")
	if c.refused(w, r.Method+" "+sub) {
		return
	}
	if c.find(name) == nil {
		write(w, 404, status(404, metav1.StatusReasonNotFound, fmt.Sprintf("bottles.botbottle.dev %q not found", name)))
		return
	}
	switch sub {
	case "exec", "attach":
		c.stream(w, r, false)
	case "log":
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		c.log(r.Context(), r.URL.Query(), flushing{w})
	case "proof":
		write(w, 200, c.proof)
	default:
		write(w, 200, subresources.BottleAction{TypeMeta: metav1.TypeMeta{APIVersion: "subresources.botbottle.dev/v1alpha1", Kind: "BottleAction"}, ObjectMeta: metav1.ObjectMeta{Name: name}, RequestedAt: "now"})
	}
}

// flushing sends each write at once.
type flushing struct{ http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

// stream serves a session over SPDY, or translates a WebSocket to it as the manager does.
func (c *cluster) stream(w http.ResponseWriter, r *http.Request, translated bool) {
	q := r.URL.Query()
	flag := func(name string) bool { return q.Get(name) == "true" }
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		if c.noWebSockets {
			http.Error(w, "no WebSockets here", http.StatusForbidden)
			return
		}
		location, _ := url.Parse(fmt.Sprintf("%s/agent/%s/%s?%s", c.URL, r.PathValue("name"), r.PathValue("sub"), r.URL.RawQuery))
		proxy.NewStreamTranslatorHandler(location, http.DefaultTransport, 0, proxy.Options{Stdin: flag("stdin"), Stdout: flag("stdout"), Stderr: flag("stderr"), Tty: flag("tty")}).ServeHTTP(w, r)
		return
	}
	if c.noSPDY && !translated {
		http.Error(w, "no SPDY here", http.StatusForbidden)
		return
	}
	options := &remotecommand.Options{Stdin: flag("stdin"), Stdout: flag("stdout"), Stderr: flag("stderr"), TTY: flag("tty")}
	s := &session{bottle: r.PathValue("name"), command: q["command"], query: q, websocket: translated}
	c.mu.Lock()
	c.sessions = append(c.sessions, s)
	c.mu.Unlock()
	remotecommand.ServeExec(w, r, guest{c, s}, "", "", "", s.command, options, limit, limit, []string{remotecommand.StreamProtocolV4Name})
}

// guest runs a session with the function of the cluster.
type guest struct {
	c *cluster
	s *session
}

func (g guest) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, err io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	s := g.s
	s.ctx, s.in, s.tty, s.resize, s.out, s.err = ctx, in, tty, resize, io.Discard, io.Discard
	if out != nil {
		s.out = out
	}
	if err != nil {
		s.err = err
	}
	if code := g.c.guest(s); code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("exit code %d", code), Code: code}
	}
	return nil
}

// ready returns a Bottle that runs.
func ready(name string) *v1alpha1.Bottle {
	b := &v1alpha1.Bottle{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BottleSpec{Slug: name, DesiredState: v1alpha1.DesiredStateRunning}}
	for _, t := range []string{"Scheduled", "NetworkReady", "SmolfileReady", "BundleReady", "MachineReady", "EgressEnforced", "Ready"} {
		set(b, t, "True", "Ready", "it is so")
	}
	return b
}

// set sets a condition.
func set(b *v1alpha1.Bottle, kind, value, reason, message string) {
	for i, c := range b.Status.Conditions {
		if c.Type == kind {
			b.Status.Conditions[i] = metav1.Condition{Type: kind, Status: metav1.ConditionStatus(value), Reason: reason, Message: message}
			return
		}
	}
	b.Status.Conditions = append(b.Status.Conditions, metav1.Condition{Type: kind, Status: metav1.ConditionStatus(value), Reason: reason, Message: message})
}
