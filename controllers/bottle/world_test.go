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
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
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
	"botbottle.dev/bottle-operator/internal/enforce"
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

// epoch is when every test begins.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a node, an API server and an agent between them.
type world struct {
	t        *testing.T
	faults   *hosttest.Faults
	networks *hosttest.Networks
	bundles  *hosttest.Bundles
	machines *hosttest.Machines
	images   *hosttest.Images
	walls    *hosttest.Walls
	canaries *hosttest.Canaries
	enforcer *enforce.Enforcer
	guest    *testGuest
	facts    *hosttest.Facts
	refs     *refs
	api      *api
	clock    *testclock.FakeClock
	recorder *events.FakeRecorder
	// sweepMetrics are those of the Sweeper, where a test has one.
	sweepMetrics *prometheus.Registry
	stateDir     string
	imageDir     string
	allowed      []string
	unproven     bool // the agent does not insist on proofs
	insist       bool // it insists on smolvm's policy
	pool         *subnet.Pool
	r            *Reconciler
	queue        workqueue.TypedRateLimitingInterface[ctrl.Request] // see useQueue
}

// factsNow are the node's facts as they are, without a keeper that remembers.
type factsNow struct{ host.Facts }

func (f factsNow) Get(ctx context.Context) []host.Fact { return f.NodeFacts(ctx) }
func (factsNow) OnChange(func())                       {}

// api is a fake API server that counts writes and fails them when told.
type api struct {
	client.Client
	mu     sync.Mutex
	writes []string
	fail   func(write string) error // asked before each write
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	t.Helper()
	w := &world{t: t, sweepMetrics: prometheus.NewRegistry(), faults: &hosttest.Faults{}, facts: &hosttest.Facts{}, refs: newRefs(),
		clock: testclock.NewFakeClock(epoch), stateDir: t.TempDir(), imageDir: t.TempDir(), pool: subnet.Default()}
	w.networks = hosttest.NewNetworks(w.faults)
	w.bundles = hosttest.NewBundles(w.networks)
	w.bundles.SetClock(w.clock.Now)
	w.machines = hosttest.NewMachines(w.faults)
	w.walls, w.canaries = hosttest.NewWalls(w.faults), &hosttest.Canaries{}
	w.machines.ResolveNetNS(w.netns)
	w.guest = &testGuest{world: w, does: honest}
	w.machines.OnExec(w.guest.exec)
	w.images = hosttest.NewImages(w.faults, w.imageDir, w.clock)
	w.images.PutLocal("file:guest.tar", "default image")
	w.api = newAPI(t, objects...)
	t.Cleanup(w.checkStatuses)
	w.restartAgent()
	return w
}

// checkStatuses holds what was written of every Bottle to the rules of kstatus.
func (w *world) checkStatuses() {
	list := &v1alpha1.BottleList{}
	if err := w.api.List(context.Background(), list); err != nil {
		w.t.Errorf("list the Bottles of the test: %v", err)
	}
	for i := range list.Items {
		kstatus.Require(w.t, &list.Items[i])
	}
}

// restartAgent begins a new agent over the same node, state and API server.
func (w *world) restartAgent() {
	w.t.Helper()
	dir, err := state.Open(w.stateDir)
	if err != nil {
		w.t.Fatal(err)
	}
	w.recorder = events.NewFakeRecorder(200)
	w.enforcer, err = enforce.New(enforce.Options{Walls: w.walls, Machines: w.machines, Canaries: w.canaries, State: dir, Clock: w.clock, Log: logr.Discard(), Interval: time.Second,
		Prober: w.prober(), ProofTargets: publicTargets, MaxConcurrentProofs: 8})
	if err != nil {
		w.t.Fatal(err)
	}
	w.r = New(Options{
		Node: testNode, Cluster: testCluster, Client: w.api.Client, Recorder: w.recorder, References: w.refs,
		Networks: w.networks, Bundles: w.bundles, Machines: w.machines, Facts: factsNow{w.facts},
		Walls: w.walls, Enforcement: w.enforcer,
		RequireProof: !w.unproven, RequireSmolvmPolicy: w.insist,
		State: dir, Images: w.images, Pool: w.pool, Clock: w.clock,
		DefaultImage: "file:guest.tar", AllowedBundleImages: w.allowed,
		MachinePollInterval: 5 * time.Second, MaxConcurrentStarts: 4,
	})
}

// change makes the steps use something else from now on.
func (w *world) change(what func(*Options)) {
	what(&w.r.Options)
	w.r.steps = w.r.newSteps()
}

// demo is a Bottle that the manager placed on the node.
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

// pass makes one pass over a Bottle and lets a start that it began end.
func (w *world) pass(k types.NamespacedName) (ctrl.Result, error) {
	res, err := w.r.Reconcile(w.t.Context(), ctrl.Request{NamespacedName: k})
	w.checkStatuses()
	w.r.starts.Wait()
	w.enforcer.WaitProofs()
	return res, err
}

// useQueue gives the Reconciler a work queue, which it has otherwise only as
// part of a manager.
func (w *world) useQueue() {
	w.queue = workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[ctrl.Request]())
	w.r.requests.Bind(w.queue)
	w.t.Cleanup(w.queue.ShutDown)
}

// nextQueued waits for the next request in the queue; it is empty if none comes.
func (w *world) nextQueued() types.NamespacedName {
	late := time.AfterFunc(10*time.Second, w.queue.ShutDown)
	defer late.Stop()
	req, _ := w.queue.Get()
	w.queue.Done(req)
	return req.NamespacedName
}

// settle makes passes until the next one is due in a long time. Short waits
// are waited for, errors retried.
func (w *world) settle(k types.NamespacedName) {
	w.t.Helper()
	const short = 10 * time.Second
	for range 60 {
		before := len(w.api.log())
		begun := w.r.starts.Started() + w.guest.count()
		res, err := w.pass(k)
		switch {
		case err != nil:
			continue
		case w.r.starts.Started()+w.guest.count() != begun, len(w.api.log()) != before:
		case res.RequeueAfter == 0 || res.RequeueAfter > short:
			return
		}
		if res.RequeueAfter <= short { // longer ones end by an event
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

// update changes a Bottle as a user or the manager would; a change of the spec
// makes a new generation.
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

// cond is a condition as STATUS/REASON; "" when it is not there.
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

// events are those that were told so far, oldest first.
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

// nodeState is everything on the node, comparable.
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

// writingCalls are the calls of the host so far that change something.
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
	used map[types.NamespacedName][]namedwatch.Ref
	err  error
	// onGet runs before an object is read.
	onGet func()
}

func newRefs() *refs {
	return &refs{data: map[namedwatch.Ref]map[string][]byte{}, used: map[types.NamespacedName][]namedwatch.Ref{}}
}

func (r *refs) put(kind namedwatch.Kind, name, key, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.data[namedwatch.Ref{Kind: kind, Namespace: "default", Name: name}] = map[string][]byte{key: []byte(value)}
}

func (r *refs) Use(user types.NamespacedName, named []namedwatch.Ref) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(named) == 0 {
		delete(r.used, user)
		return
	}
	r.used[user] = named
}

func (r *refs) Get(_ context.Context, ref namedwatch.Ref) (map[string][]byte, error) {
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
		return nil, fmt.Errorf("%s: %w", ref, namedwatch.ErrNotFound)
	}
	return maps.Clone(data), nil
}

func newAPI(t *testing.T, objects ...client.Object) *api {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
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

// write records a write and fails it before its effect, or after when the
// error says so.
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

// bottleConverter makes the fake API server merge as the real one does: by the
// list keys of the CRD. Reading them takes longer than most tests, and is done
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
