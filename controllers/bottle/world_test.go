// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/kube-openapi/pkg/validation/spec"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/broker"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/imageuse"
	"botbottle.dev/bottle-operator/internal/namedwatch"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/subnet"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/kstatus"
)

const (
	testNode    = "node-a"
	testCluster = "c1c1c1c1-0000-4000-8000-000000000000"
	testUID     = "1a2b3c4d-0000-4000-8000-000000000000"
	testID      = "bottle-demo-1a2b3c4d"
)

// TestMain keeps the tests' files in memory if there is a /dev/shm: on a disk, syncing them
// hundreds of times takes most of the time.
func TestMain(m *testing.M) {
	if dir, err := os.MkdirTemp("/dev/shm", "bottle-test"); err == nil {
		os.Remove(dir)
		os.Setenv("TMPDIR", "/dev/shm")
	}
	os.Exit(m.Run())
}

// epoch is when every test starts.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a node, an API server and the agent that connects them.
type world struct {
	t           *testing.T
	faults      *hosttest.Faults
	networks    *hosttest.Networks
	bundles     *hosttest.Bundles
	machines    *hosttest.Machines
	images      *hosttest.Images
	exchange    *hosttest.Exchanges
	exchangeDir string
	vault       *hosttest.Vault
	sessions    Sessions
	walls       *hosttest.Walls
	canaries    *hosttest.Canaries
	enforcer    *enforce.Enforcer
	guest       *testGuest
	facts       *hosttest.Facts
	refs        *refs
	api         *api
	clock       *testclock.FakeClock
	recorder    *events.FakeRecorder
	pods        testPods
	// sweepMetrics holds the metrics of the Sweeper, if a test has one.
	sweepMetrics  *prometheus.Registry
	stateDir      string
	imageDir      string
	allowed       []string
	allowUnproven bool // the agent does not require proofs
	requirePolicy bool // the agent requires smolvm's policy
	pool          *subnet.Pool
	around        *surroundings
	limits        egress.Limits // the platform's limits on egress rules
	upstreamCA    []byte
	r             *Reconciler
	queue         workqueue.TypedRateLimitingInterface[ctrl.Request] // see useQueue
}

// factsNow returns the node's current facts, without a cache.
type factsNow struct{ host.Facts }

func (f factsNow) Get(ctx context.Context) []host.Fact { return f.NodeFacts(ctx) }
func (factsNow) OnChange(func())                       {}

// api is a fake API server that records writes and can make them fail.
type api struct {
	client.Client
	mu     sync.Mutex
	writes []string
	fail   func(write string) error // called before each write
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	w := &world{t: t, sweepMetrics: prometheus.NewRegistry(), faults: &hosttest.Faults{}, facts: &hosttest.Facts{}, refs: newRefs(),
		clock: testclock.NewFakeClock(epoch), stateDir: t.TempDir(), imageDir: t.TempDir(), pool: subnet.Default(), around: &surroundings{routes: map[string]string{}}}
	w.networks = hosttest.NewNetworks(w.faults)
	w.bundles = hosttest.NewBundles(w.networks)
	w.bundles.SetClock(w.clock.Now)
	w.machines = hosttest.NewMachines(w.faults)
	w.walls, w.canaries = hosttest.NewWalls(w.faults), &hosttest.Canaries{}
	w.machines.ResolveNetNS(w.netns)
	w.guest = &testGuest{world: w, does: honest}
	w.machines.OnExec(w.guest.exec)
	w.exchangeDir = t.TempDir()
	w.exchange = hosttest.NewExchanges(w.faults, w.exchangeDir)
	w.vault = hosttest.NewVault(w.faults)
	w.images = hosttest.NewImages(w.faults, w.imageDir, w.clock)
	w.images.PutLocal("file:guest.tar", "default image")
	w.api = newAPI(t, objects...)
	t.Cleanup(w.checkStatuses)
	w.restartAgent()
	return w
}

// checkStatuses checks the status of every Bottle against the rules of kstatus.
func (w *world) checkStatuses() {
	list := &v1alpha1.BottleList{}
	if err := w.api.List(context.Background(), list); err != nil {
		w.t.Errorf("list the Bottles of the test: %v", err)
	}
	for i := range list.Items {
		kstatus.Require(w.t, &list.Items[i])
	}
}

// restartAgent starts a new agent with the same node, state and API server.
func (w *world) restartAgent() {
	w.t.Helper()
	dir, err := state.Open(w.stateDir)
	if err != nil {
		w.t.Fatal(err)
	}
	w.recorder = events.NewFakeRecorder(200)
	runtimes := w.runtimes(dir)
	w.enforcer, err = enforce.New(enforce.Options{Walls: runtimes.walls, Publish: runtimes.publish, Pods: runtimes.pods, Machines: w.machines, Canaries: w.canaries, State: dir, Clock: w.clock, Log: logr.Discard(), Interval: time.Second,
		GuestProgram: w.guestProgram(), ProofTargets: publicTargets, MaxConcurrentProofs: 8, Limits: func() egress.Limits { return w.limits }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.r = New(Options{
		Runtimes: &runtimes.Runtimes,
		Node:     testNode, Cluster: testCluster, Client: w.api.Client, Recorder: w.recorder, References: w.refs,
		Networks: runtimes.networks, Bundles: runtimes.bundles, Machines: podMachines{w.machines, &w.pods, runtimes.Places}, Facts: factsNow{w.facts},
		Walls: runtimes.walls, Enforcement: w.enforcer, Surroundings: w.around,
		RequireProof: !w.allowUnproven, RequireSmolvmPolicy: w.requirePolicy,
		Broker:     broker.New(broker.Options{Bottles: w.api.Client, References: w.refs, Vault: w.vault, Exchanges: w.exchange, Clock: w.clock}),
		UpstreamCA: func() []byte { return w.upstreamCA },
		State:      dir, Images: w.images, Exchanges: w.exchange, Sessions: w.sessions, Pool: w.pool, Clock: w.clock,
		DefaultImage: "file:guest.tar", AllowedBundleImages: w.allowed,
		MachinePollInterval: 5 * time.Second, MaxConcurrentStarts: 4,
	})
}

// change changes the options that the steps use from now on.
func (w *world) change(edit func(*Options)) {
	edit(&w.r.Options)
	w.r.steps = w.r.newSteps()
}

// demo returns a Bottle that the manager placed on the node.
func demo() *builders.Bottle { return placed(builders.MakeBottle("demo").UID(testUID)) }

func placed(b *builders.Bottle) *builders.Bottle {
	b.Namespace("default").Generation(1)
	b.Status.NodeName = ptr.To(testNode)
	b.Status.Resources = &v1alpha1.ResourcesStatus{CPUs: 2, Memory: resource.MustParse("2Gi")}
	b.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionScheduled, Status: metav1.ConditionTrue,
		Reason: v1alpha1.ReasonScheduled, Message: "on node-a", LastTransitionTime: metav1.NewTime(epoch)}}
	return b
}

var demoKey = types.NamespacedName{Namespace: "default", Name: "demo"}

// pass makes one pass over a Bottle, and waits for the starts and proofs that it
// started.
func (w *world) pass(k types.NamespacedName) (ctrl.Result, error) {
	res, err := w.r.Reconcile(w.t.Context(), ctrl.Request{NamespacedName: k})
	w.checkStatuses()
	w.r.starts.Wait()
	w.r.ends.Wait()
	w.enforcer.WaitProofs()
	return res, err
}

// useQueue gives the Reconciler a work queue. Without it, only a manager would
// provide one.
func (w *world) useQueue() {
	w.queue = workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[ctrl.Request]())
	w.r.requests.Bind(w.queue)
	w.t.Cleanup(w.queue.ShutDown)
}

// nextQueued waits for the next request in the queue. It is empty if none comes
// in time.
func (w *world) nextQueued() types.NamespacedName {
	late := time.AfterFunc(10*time.Second, w.queue.ShutDown)
	defer late.Stop()
	req, _ := w.queue.Get()
	w.queue.Done(req)
	return req.NamespacedName
}

// settle makes passes until the next one is not due soon. It waits for short
// pauses and retries after errors.
func (w *world) settle(k types.NamespacedName) {
	w.t.Helper()
	const short = 10 * time.Second
	for range 60 {
		before := len(w.api.log())
		jobs := w.r.starts.Started() + w.guest.count()
		res, err := w.pass(k)
		switch {
		case err != nil:
			continue
		case w.r.starts.Started()+w.guest.count() != jobs, len(w.api.log()) != before:
		case res.RequeueAfter == 0 || res.RequeueAfter > short:
			return
		}
		if res.RequeueAfter <= short { // an event ends longer ones
			w.clock.Step(res.RequeueAfter)
		}
	}
	w.t.Fatalf("bottle %s does not settle: %s", k, w.describe(k))
}

func (w *world) bottle(k types.NamespacedName) *v1alpha1.Bottle {
	w.t.Helper()
	b := &v1alpha1.Bottle{}
	if err := w.api.Get(w.t.Context(), k, b); err != nil {
		w.t.Fatal(err)
	}
	return b
}

// update changes a Bottle as a user or the manager would. A change of the spec
// increments the generation.
func (w *world) update(k types.NamespacedName, change func(*v1alpha1.Bottle)) {
	w.t.Helper()
	b := w.bottle(k)
	spec := b.Spec.DeepCopy()
	change(b)
	status := b.Status.DeepCopy()
	if fmt.Sprint(mustJSON(w.t, spec)) != fmt.Sprint(mustJSON(w.t, b.Spec)) {
		b.Generation++
	}
	if err := w.api.Update(w.t.Context(), b); err != nil {
		w.t.Fatal(err)
	}
	b.Status = *status
	if err := w.api.Status().Update(w.t.Context(), b); err != nil {
		w.t.Fatal(err)
	}
	w.api.reset()
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// cond returns a condition as STATUS/REASON; "" if the Bottle does not have it.
func (w *world) cond(k types.NamespacedName, typ string) string {
	w.t.Helper()
	return condOf(w.bottle(k), typ)
}

func condOf(b *v1alpha1.Bottle, typ string) string {
	c := meta.FindStatusCondition(b.Status.Conditions, typ)
	if c == nil {
		return ""
	}
	return string(c.Status) + "/" + c.Reason
}

func (w *world) message(k types.NamespacedName, typ string) string {
	w.t.Helper()
	c := meta.FindStatusCondition(w.bottle(k).Status.Conditions, typ)
	if c == nil {
		return ""
	}
	return c.Message
}

func (w *world) wantCond(k types.NamespacedName, typ, want string) {
	w.t.Helper()
	if got := w.cond(k, typ); got != want {
		w.t.Errorf("%s: got %q, want %q; %s", typ, got, want, w.message(k, typ))
	}
}

func (w *world) describe(k types.NamespacedName) string {
	b := &v1alpha1.Bottle{}
	if err := w.api.Get(w.t.Context(), k, b); err != nil {
		return err.Error()
	}
	var lines []string
	for _, c := range b.Status.Conditions {
		lines = append(lines, fmt.Sprintf("%s=%s/%s %s", c.Type, c.Status, c.Reason, c.Message))
	}
	return strings.Join(lines, "\n")
}

// events returns the Events recorded since the last call, oldest first.
func (w *world) events() []string {
	var out []string
	for {
		select {
		case e := <-w.recorder.Events:
			out = append(out, e)
		default:
			return out
		}
	}
}

func (w *world) wantEvent(text string) {
	w.t.Helper()
	got := w.events()
	if !slices.ContainsFunc(got, func(e string) bool { return strings.Contains(e, text) }) {
		w.t.Errorf("events: got %q, want one with %q", got, text)
	}
}

// nodeState describes everything on the node in a comparable form.
func (w *world) nodeState() map[string]string {
	out := map[string]string{}
	for name, n := range w.networks.All() {
		out["network "+name] = n.Subnet.String()
	}
	for name, b := range w.bundles.All() {
		out["bundle "+name] = fmt.Sprint(b.IP, b.Image, b.Running)
	}
	for _, name := range w.machines.Names() {
		m, spec, _ := w.machines.Get(name)
		out["machine "+name] = fmt.Sprint(m.State, spec.CPUs, spec.MemoryMiB, len(spec.Secrets))
	}
	for _, name := range w.machines.Leftovers() {
		out["data of machine "+name] = "left"
	}
	for _, id := range w.walls.IDs() {
		out["wall "+id] = "stands"
	}
	for _, name := range w.exchange.Left() {
		out["exchange "+name[:len("out/")+8]] = "exists"
	}
	_ = filepath.Walk(filepath.Join(w.stateDir, "bottles"), func(p string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(w.stateDir, p)
		out["file "+rel] = info.Mode().String()
		return nil
	})
	return out
}

// writingCalls returns the calls to the host so far that change something.
func (w *world) writingCalls() []string {
	var out []string
	for _, c := range w.faults.Calls() {
		for _, verb := range []string{"EnsureNetwork", "Delete", "Create", "Start", "Stop"} {
			if strings.HasPrefix(c, verb) {
				out = append(out, c)
			}
		}
	}
	return out
}

// refs are Secrets and ConfigMaps in memory.
type refs struct {
	mu   sync.Mutex
	data map[namedwatch.Ref]map[string][]byte
	puts int // the newest resourceVersion
	vers map[namedwatch.Ref]int
	err  error
	// onGet runs before an object is read.
	onGet func()
}

func newRefs() *refs {
	return &refs{data: map[namedwatch.Ref]map[string][]byte{}, vers: map[namedwatch.Ref]int{}}
}

func (r *refs) put(kind namedwatch.Kind, name, key, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ref := namedwatch.Ref{Kind: kind, Namespace: "default", Name: name}
	r.data[ref] = map[string][]byte{key: []byte(value)}
	r.puts++
	r.vers[ref] = r.puts
}

func (r *refs) delete(kind namedwatch.Kind, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.data, namedwatch.Ref{Kind: kind, Namespace: "default", Name: name})
}

// Peek implements envsource.Peeker.
func (r *refs) Peek(b *v1alpha1.Bottle, ref namedwatch.Ref) (envsource.Object, error) {
	data, err := r.Get(context.Background(), b, ref)
	r.mu.Lock()
	defer r.mu.Unlock()
	return envsource.Object{Data: data, ResourceVersion: fmt.Sprint(r.vers[ref])}, err
}

func (r *refs) Get(_ context.Context, _ *v1alpha1.Bottle, ref namedwatch.Ref) (map[string][]byte, error) {
	if onGet := r.onGet; onGet != nil {
		onGet()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, r.err
	}
	data, ok := r.data[ref]
	if !ok {
		return nil, fmt.Errorf("%s: %w", ref, envsource.ErrNotFound)
	}
	return maps.Clone(data), nil
}

func newAPI(t *testing.T, objects ...client.Object) *api {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil { // not more: the fake client walks through all types at each call
		t.Fatal(err)
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	converter, err := bottleConverter()
	if err != nil {
		t.Fatal(err)
	}
	a := &api{}
	a.Client = fake.NewClientBuilder().WithScheme(scheme).
		WithTypeConverters(converter, managedfields.NewDeducedTypeConverter()).
		WithStatusSubresource(&v1alpha1.Bottle{}, &corev1.Node{}).
		WithObjects(objects...).
		WithIndex(&v1alpha1.Bottle{}, "status.nodeName", func(o client.Object) []string {
			return []string{ptr.Deref(o.(*v1alpha1.Bottle).Status.NodeName, "")}
		}).
		WithInterceptorFuncs(interceptor.Funcs{
			Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, patch client.Patch, opts ...client.PatchOption) error {
				return a.write("patch "+obj.GetName(), func() error { return c.Patch(ctx, obj, patch, opts...) })
			},
			SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
				return a.write("patch "+sub, func() error { return c.SubResource(sub).Patch(ctx, obj, patch, opts...) })
			},
			SubResourceApply: func(ctx context.Context, c client.Client, sub string, obj runtime.ApplyConfiguration, opts ...client.SubResourceApplyOption) error {
				return a.write("apply "+sub, func() error { return c.SubResource(sub).Apply(ctx, obj, opts...) })
			},
		}).Build()
	return a
}

// write records a write. If fail returns an error, the write fails before its
// effect, or after it if the error text contains "after".
func (a *api) write(name string, effect func() error) error {
	a.mu.Lock()
	a.writes = append(a.writes, name)
	fail := a.fail
	a.mu.Unlock()
	var err error
	if fail != nil {
		err = fail(name)
	}
	if err != nil && !strings.Contains(err.Error(), "after") {
		return err
	}
	if effectErr := effect(); effectErr != nil {
		return effectErr
	}
	return err
}

func (a *api) log() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.writes)
}

func (a *api) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writes = nil
}

// bottleConverter makes the fake API server merge lists like the real one, by the
// list keys in the CRD. Reading the CRD takes longer than most tests, and is done
// once.
var bottleConverter = sync.OnceValues(func() (managedfields.TypeConverter, error) {
	data, err := os.ReadFile("../../config/crd/bases/botbottle.dev_bottles.yaml")
	if err != nil {
		return nil, err
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema json.RawMessage `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(data, &crd); err != nil {
		return nil, err
	}
	schema := &spec.Schema{}
	if err := json.Unmarshal(crd.Spec.Versions[0].Schema.OpenAPIV3Schema, schema); err != nil {
		return nil, err
	}
	schema.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{
		"group": v1alpha1.GroupVersion.Group, "version": v1alpha1.GroupVersion.Version, "kind": "Bottle",
	}})
	return managedfields.NewTypeConverter(map[string]*spec.Schema{"Bottle": schema}, true)
})

func (w *world) usedImages() (digests, archives map[string]bool, err error) {
	users := imageuse.Users{Bottles: w.api.Client, State: w.r.State, Machines: w.machines}
	return users.Used(w.t.Context())
}
