// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/controllers/bottle"
	"botbottle.dev/bottle-operator/controllers/node"
	"botbottle.dev/bottle-operator/internal/docker"
	"botbottle.dev/bottle-operator/internal/guard"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostmetrics"
	"botbottle.dev/bottle-operator/internal/namedwatch"
	"botbottle.dev/bottle-operator/internal/nodefacts"
	"botbottle.dev/bottle-operator/internal/probe/canary"
	"botbottle.dev/bottle-operator/internal/smolvm"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/wall"
)

const (
	// agentName reports Events.
	agentName = "botbottle.dev/agent"
	// lockPatience is how long a new agent waits for the old one to end.
	lockPatience = 20 * time.Second
	retryEvery   = 2 * time.Second
)

// Run is the agent, until ctx ends.
func (o *AgentOptions) Run(ctx context.Context) error {
	if err := o.Validate(); err != nil {
		return err
	}
	cfg, err := restConfig(o.Kubeconfig, "bottle-agent")
	if err != nil {
		return err
	}
	dir, err := o.openState(ctx)
	if err != nil {
		return err
	}
	// Until the very end: while the rest shuts down, machines go on running.
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	parts, err := o.watch(watching, dir, fail)
	if err != nil {
		return err
	}
	mgr, err := o.newManager(cfg)
	if err != nil {
		return err
	}
	cluster, err := clusterID(ctx, mgr.GetAPIReader())
	if err != nil {
		return err
	}
	if err := dir.ClaimCluster(cluster); err != nil {
		return err
	}
	parts.cluster = cluster
	if err := o.compose(ctx, mgr, parts); err != nil {
		return err
	}
	err = mgr.Start(ctx)
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// parts are what compose is given beside the options.
type parts struct {
	dir      *state.Dir
	cluster  string
	machines *smolvm.Driver
	walls    *wall.Walls
	canaries *canary.Canaries
	guard    *guard.Guard
}

// watch begins to watch over the machines that an earlier agent left, before
// dockerd or the API server is asked for anything. fail ends the agent: with a
// dead canary silence proves nothing.
func (o *AgentOptions) watch(ctx context.Context, dir *state.Dir, fail context.CancelCauseFunc) (parts, error) {
	p := parts{dir: dir, machines: o.smolvm(dir), walls: wall.New(wall.Options{})}
	counts, err := guard.NewMetrics(metrics.Registry)
	if err != nil {
		return p, fmt.Errorf("metrics: %w", err)
	}
	p.guard, err = guard.New(guard.Options{
		Walls: p.walls, Machines: p.machines, State: dir, Clock: clock.RealClock{},
		Log: ctrl.Log.WithName("guard"), Interval: o.WallCheckInterval, Metrics: counts,
	})
	if err != nil {
		return p, err
	}
	if err := metrics.Registry.Register(guard.NewDropped(p.guard)); err != nil {
		return p, fmt.Errorf("metrics: %w", err)
	}
	p.canaries, err = canary.New(canary.Options{Touched: p.guard.Touched})
	if err != nil {
		return p, fmt.Errorf("canaries: %w", err)
	}
	go func() {
		if err := p.canaries.Start(ctx); err != nil {
			fail(fmt.Errorf("canaries: %w", err))
		}
	}()
	go func() { _ = p.guard.Start(ctx) }() // ends with ctx alone
	return p, nil
}

// compose makes everything of the agent part of mgr.
func (o *AgentOptions) compose(ctx context.Context, mgr ctrl.Manager, p parts) error {
	engine, err := o.loadDocker(ctx)
	if err != nil {
		return err
	}
	pool, err := o.pool()
	if err != nil {
		return err
	}
	core, err := corev1client.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("client of Secrets and ConfigMaps: %w", err)
	}
	counts, err := bottle.NewMetrics(metrics.Registry)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	calls, err := hostmetrics.New(metrics.Registry)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	if err := metrics.Registry.Register(bottle.NewPopulation(mgr.GetCache(), o.NodeName)); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	prober, err := o.prober()
	if err != nil {
		return err
	}
	targets, err := o.proofTargets()
	if err != nil {
		return err
	}
	facts := node.NewFacts(o.facts(engine, p.machines, prober), clock.RealClock{})
	var r *bottle.Reconciler
	images, err := o.openImages(p.dir, engine, func(uid, reason, message string) { r.ImageEvent(uid, reason, message) })
	if err != nil {
		return err
	}
	watches := namedwatch.New(core.RESTClient(), func(user client.ObjectKey) { r.Enqueue(user) })
	r = bottle.New(bottle.Options{
		Node: o.NodeName, Cluster: p.cluster,
		Client: mgr.GetClient(), Recorder: mgr.GetEventRecorder(agentName), References: watches,
		Networks: calls.Networks(engine), Bundles: calls.Bundles(engine), Machines: calls.Machines(p.machines), Facts: facts,
		Walls: p.walls, Canaries: p.canaries, Guard: p.guard, Prober: prober, ProofTargets: targets,
		RequireProof: o.RequireProof, RequireSmolvmPolicy: o.RequireSmolvmPolicy,
		State: p.dir, Images: images, Pool: pool,
		Clock: clock.RealClock{}, Metrics: counts,
		DefaultImage: o.DefaultImage, AllowedBundleImages: o.AllowedBundleImages,
		MachinePollInterval: o.MachinePollInterval, MaxConcurrentStarts: o.MaxConcurrentStarts,
	})
	if err := o.addImages(mgr, images, r); err != nil {
		return err
	}
	if err := mgr.Add(watches); err != nil {
		return err
	}
	if err := o.addNode(mgr, facts); err != nil {
		return err
	}
	return o.add(mgr, r)
}

// newManager caches this node's Bottles and the one Node, and nothing else.
func (o *AgentOptions) newManager(cfg *rest.Config) (ctrl.Manager, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: scheme,
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&v1alpha1.Bottle{}: {Field: fields.OneTermEqualSelector("status.nodeName", o.NodeName)},
				&corev1.Node{}:     {Field: fields.OneTermEqualSelector("metadata.name", o.NodeName)},
			},
		},
		Metrics:                 metricsserver.Options{BindAddress: o.MetricsAddress},
		HealthProbeBindAddress:  o.HealthAddress,
		GracefulShutdownTimeout: ptr.To(25 * time.Second),
	})
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	return mgr, nil
}

// openState opens the state directory and waits a little for an agent that is
// just ending.
func (o *AgentOptions) openState(ctx context.Context) (*state.Dir, error) {
	dir, err := state.Open(o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	patience, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	for {
		err := dir.Lock()
		if !errors.Is(err, state.ErrInUse) {
			return dir, err
		}
		select {
		case <-patience.Done():
			return nil, fmt.Errorf("--state-dir: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// clusterID is the UID of kube-system, asked for until the API server answers.
func clusterID(ctx context.Context, reader client.Reader) (string, error) {
	for said := false; ; said = true {
		ns := &corev1.Namespace{}
		err := reader.Get(ctx, client.ObjectKey{Name: "kube-system"}, ns)
		if err == nil {
			return string(ns.UID), nil
		}
		if !said {
			ctrl.Log.Error(err, "The API server does not say which cluster it is; asked again until it does")
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("identity of the cluster: %w", err)
		case <-time.After(retryEvery):
		}
	}
}

// ownExecutable is this process's, also after the file was replaced by an
// upgrade.
const ownExecutable = "/proc/self/exe"

// loadDocker loads the built-in bundle image. A Docker Engine that is down
// gets it later, when the first bundle needs it.
func (o *AgentOptions) loadDocker(ctx context.Context) (*docker.Engine, error) {
	engine, err := docker.New(docker.Options{Host: o.DockerHost})
	if err != nil {
		return nil, fmt.Errorf("--docker-host: %w", err)
	}
	reference, err := engine.LoadBundleImage(ctx, ownExecutable)
	switch {
	case errors.Is(err, host.ErrInvalid):
		return nil, fmt.Errorf("the agent's executable cannot be the bundle image: %w", err)
	case err != nil:
		ctrl.Log.Error(err, "The built-in bundle image is not loaded yet")
	default:
		ctrl.Log.Info("The built-in bundle image is loaded", "image", reference)
	}
	return engine, nil
}

func (o *AgentOptions) smolvm(dir *state.Dir) *smolvm.Driver {
	return smolvm.New(smolvm.Options{
		Dir: o.SmolvmDir, Home: dir.SmolvmHome(),
		StartTimeout: o.StartTimeout,
	})
}

func (o *AgentOptions) facts(engine *docker.Engine, machines *smolvm.Driver, prober string) host.Facts {
	return nodefacts.New(nodefacts.Options{
		SmolvmDir: o.SmolvmDir, StateDir: o.StateDir, KVMDevice: o.KVMDevice, Prober: prober,
		Version: machines.Version, PingDocker: engine.Ping,
	})
}
