// SPDX-License-Identifier: Apache-2.0

package placement_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/controllers/placement"
	"botbottle.dev/bottle-operator/test/api/apienv"
)

func TestMain(m *testing.M) {
	log := logr.Discard()
	if os.Getenv("TEST_LOG") != "" { // print the managers' logs, for debugging a story
		log = funcr.New(func(prefix, args string) { fmt.Fprintln(os.Stderr, prefix, args) }, funcr.Options{})
	}
	ctrl.SetLogger(log)
	apienv.Main(m)
}

const (
	waitTimeout  = 20 * time.Second
	pollInterval = 20 * time.Millisecond
	// leaseSeconds is just long enough for a busy test machine.
	leaseSeconds = 3
	worldLabel   = "test.botbottle.dev/world"
)

// world is one test's part of the shared API server: a namespace, nodes of its
// own and a manager that sees no others. The test itself acts as the scheduler,
// the kubelet and the agents.
type world struct {
	*testing.T
	cfg      *rest.Config
	c        client.WithWatch // may do everything
	ns       string
	registry *prometheus.Registry
	options  placement.Options
	errors   *errorLog
	stop     func()
}

// errorLog collects the errors that a manager logs.
type errorLog struct {
	mu    sync.Mutex
	lines []string
}

func (l *errorLog) logger() logr.Logger {
	return funcr.New(func(prefix, args string) {
		if os.Getenv("TEST_LOG") != "" {
			fmt.Fprintln(os.Stderr, prefix, args)
		}
		if strings.Contains(args, `"level"=`) { // only errors have no level
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lines = append(l.lines, prefix+" "+args)
	}, funcr.Options{})
}

func (l *errorLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	cfg := apienv.Start(t)
	w := &world{T: t, cfg: cfg, c: apienv.Client(t, cfg), registry: prometheus.NewRegistry(), errors: &errorLog{}}
	w.ns = apienv.Namespace(t, w.c)
	w.options = placement.DefaultOptions()
	w.options.Namespace = apienv.SystemNamespace
	w.options.BundleImage = "registry.test/bottle-operator:1.2.3"
	w.options.DefaultCPUs = 2
	w.options.DefaultMemory = resource.MustParse("2Gi")
	w.options.LeaseDuration = leaseSeconds * time.Second
	w.options.RefusalRetry = 200 * time.Millisecond
	w.options.FirstReport = 50 * time.Millisecond
	w.options.FirstPause, w.options.LongestPause = 50*time.Millisecond, 200*time.Millisecond
	w.options.Registerer = w.registry
	return w
}

// start runs a manager, as its ServiceAccount, until the test ends or stop is
// called. The manager's requests go through the interceptor.
func (w *world) start(funcs interceptor.Funcs) {
	w.Helper()
	caches, err := placement.CacheOptions(apienv.SystemNamespace)
	w.must(err)
	here := map[string]cache.Config{w.ns: {}}
	for o, by := range caches.ByObject {
		switch o.(type) {
		case *corev1.Pod:
			by.Namespaces = here
		case *corev1.Node:
			by.Label = labels.SelectorFromSet(labels.Set{worldLabel: w.ns})
		}
		caches.ByObject[o] = by
	}
	caches.ByObject[&v1alpha1.Bottle{}] = cache.ByObject{Namespaces: here}
	mgr, err := ctrl.NewManager(apienv.AsServiceAccount(w.cfg, "bottle-manager"), ctrl.Options{
		Scheme:     apienv.Scheme(),
		Cache:      caches,
		Logger:     w.errors.logger(),
		Metrics:    server.Options{BindAddress: "0"},
		Controller: config.Controller{SkipNameValidation: ptr.To(true)},
		NewClient: func(cfg *rest.Config, o client.Options) (client.Client, error) {
			c, err := client.NewWithWatch(cfg, o)
			if err != nil {
				return nil, err
			}
			return interceptor.NewClient(c, funcs), nil
		},
	})
	w.must(err)
	w.must(placement.SetupWithManager(mgr, w.options))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			w.Errorf("the manager ended: got %v, want nil", err)
		}
	}
	w.Cleanup(w.stop)
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// eventually waits until check returns "".
func (w *world) eventually(check func() string) {
	w.Helper()
	gomega.NewWithT(w.T).Eventually(check, waitTimeout, pollInterval).Should(gomega.BeEmpty())
}

// always checks for a second that check keeps returning "".
func (w *world) always(check func() string) {
	w.Helper()
	gomega.NewWithT(w.T).Consistently(check, time.Second, pollInterval).Should(gomega.BeEmpty())
}

func (w *world) create(b *v1alpha1.Bottle) *v1alpha1.Bottle {
	w.Helper()
	b.Namespace = w.ns
	w.must(w.c.Create(w.Context(), b))
	return b
}

func (w *world) bottle(name string) *v1alpha1.Bottle {
	w.Helper()
	b := &v1alpha1.Bottle{}
	w.must(w.c.Get(w.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, b))
	return b
}

// pods returns the placeholders of a Bottle.
func (w *world) pods(name string) []corev1.Pod {
	w.Helper()
	list := &corev1.PodList{}
	w.must(w.c.List(w.Context(), list, client.InNamespace(w.ns), client.MatchingLabels{v1alpha1.LabelName: name}))
	return list.Items
}

// pod waits for a Bottle's placeholder that is not being deleted.
func (w *world) pod(name string) *corev1.Pod {
	w.Helper()
	var pod *corev1.Pod
	w.eventually(func() string {
		pods := w.pods(name)
		if len(pods) != 1 || !pods[0].DeletionTimestamp.IsZero() {
			return "no placeholder Pod yet"
		}
		pod = &pods[0]
		return ""
	})
	return pod
}

// bind binds a Pod to a node, as kube-scheduler does.
func (w *world) bind(pod *corev1.Pod, node string) {
	w.Helper()
	binding := &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: node}}
	w.must(w.c.SubResource("binding").Create(w.Context(), pod, binding))
}

// placed creates a Bottle and places it on a node.
func (w *world) placed(b *v1alpha1.Bottle, node string) *v1alpha1.Bottle {
	w.Helper()
	w.create(b)
	w.bind(w.pod(b.Name), node)
	w.waitScheduled(b.Name, "True Scheduled")
	return w.bottle(b.Name)
}

// condition returns a condition's status and reason, or "" if it is absent.
func condition(b *v1alpha1.Bottle, conditionType string) string {
	c := meta.FindStatusCondition(b.Status.Conditions, conditionType)
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason
}

func message(b *v1alpha1.Bottle, conditionType string) string {
	if c := meta.FindStatusCondition(b.Status.Conditions, conditionType); c != nil {
		return c.Message
	}
	return ""
}

func (w *world) wait(name, conditionType, want string) {
	w.Helper()
	w.eventually(func() string {
		if got := condition(w.bottle(name), conditionType); got != want {
			return "got " + conditionType + " " + got + ", want " + want
		}
		return ""
	})
}

func (w *world) waitScheduled(name, want string) {
	w.Helper()
	w.wait(name, v1alpha1.ConditionScheduled, want)
}

// node creates a ready Node with capacity for Bottles and an agent that renews
// its Lease until the returned function is called.
func (w *world) node(short string) (name string, stopAgent func()) {
	w.Helper()
	name = strings.TrimRight(w.ns[:min(len(w.ns), 40)], "-") + "-" + w.ns[len(w.ns)-5:] + "-" + short
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{worldLabel: w.ns}}}
	w.must(w.c.Create(w.Context(), node))
	w.Cleanup(func() { _ = w.c.Delete(context.Background(), node) })
	node.Status.Capacity = corev1.ResourceList{v1alpha1.ResourceBottle: resource.MustParse("250")}
	node.Status.Allocatable = node.Status.Capacity
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	w.must(w.c.Status().Update(w.Context(), node))
	return name, w.agentOn(name)
}

// agentOn acts as an agent that only renews its Lease.
func (w *world) agentOn(node string) (stop func()) {
	w.Helper()
	agent := apienv.Client(w.T, apienv.AsAgent(w.cfg, node))
	key := client.ObjectKey{Namespace: apienv.SystemNamespace, Name: "bottle-agent-" + node}
	renew := func(ctx context.Context) error {
		lease := &coordinationv1.Lease{}
		err := agent.Get(ctx, key, lease)
		now := metav1.NowMicro()
		lease.Spec.RenewTime, lease.Spec.LeaseDurationSeconds, lease.Spec.HolderIdentity = &now, ptr.To(int32(leaseSeconds)), &node
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		if err != nil {
			lease.Namespace, lease.Name = key.Namespace, key.Name
			return agent.Create(ctx, lease)
		}
		return agent.Update(ctx, lease)
	}
	w.must(renew(w.Context()))
	ctx, cancel := context.WithCancel(w.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := renew(ctx); err != nil && ctx.Err() == nil {
					w.Errorf("renew the Lease: %v", err)
				}
			}
		}
	}()
	stop = func() { cancel(); <-ended }
	w.Cleanup(stop)
	return stop
}
