// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"botbottle.dev/bottle-operator/controllers/bottle"
	"botbottle.dev/bottle-operator/internal/docker"
	"botbottle.dev/bottle-operator/internal/guard"
	"botbottle.dev/bottle-operator/internal/host"
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
)

// Run runs the agent until ctx ends. The guard comes first, then what reports
// on it; everything else waits for the API server, however long that takes.
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
	api, err := newAPIServer(cfg, metrics.Registry)
	if err != nil {
		return err
	}
	if err := o.serve(watching, healthHandler(parts.guarding, api), metrics.Registry, fail); err != nil {
		return err
	}
	err = o.manage(ctx, cfg, parts, api)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause // what it led to matters less
	}
	if errors.Is(err, context.Canceled) {
		return nil // it was asked to end
	}
	return err
}

// manage connects to the API server and runs the Bottles of this node.
func (o *AgentOptions) manage(ctx context.Context, cfg *rest.Config, p parts, api *apiServer) error {
	mgr, cluster, err := o.connect(ctx, cfg, p.dir, api)
	if err != nil {
		return err
	}
	p.cluster = cluster
	if err := o.compose(ctx, mgr, p); err != nil {
		return err
	}
	api.readWhen(mgr.GetCache().WaitForCacheSync)
	return mgr.Start(ctx)
}

// parts are what compose is given beside the options.
type parts struct {
	dir      *state.Dir
	cluster  string
	machines *smolvm.Driver
	walls    *wall.Walls
	canaries *canary.Canaries
	guard    *guard.Guard
	guarding <-chan struct{} // closed when the guard has ended
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
	guarding := make(chan struct{})
	p.guarding = guarding
	go func() {
		defer close(guarding)
		_ = p.guard.Start(ctx) // ends with ctx alone
	}()
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
	var r *bottle.Reconciler
	images, err := o.openImages(p.dir, engine, func(uid, reason, message string) { r.ImageEvent(uid, reason, message) })
	if err != nil {
		return err
	}
	watches := namedwatch.New(core.RESTClient(), func(user client.ObjectKey) { r.Enqueue(user) })
	r = bottle.New(bottle.Measured(bottle.Options{
		Node: o.NodeName, Cluster: p.cluster,
		Client: mgr.GetClient(), Recorder: mgr.GetEventRecorder(agentName), References: watches,
		Networks: engine, Bundles: engine, Machines: p.machines, Facts: o.facts(engine, p.machines, prober),
		Walls: p.walls, Canaries: p.canaries, Guard: p.guard, Prober: prober, ProofTargets: targets,
		RequireProof: o.RequireProof, RequireSmolvmPolicy: o.RequireSmolvmPolicy,
		State: p.dir, Images: images, Pool: pool,
		Clock: clock.RealClock{}, Metrics: counts,
		DefaultImage: o.DefaultImage, AllowedBundleImages: o.AllowedBundleImages,
		MachinePollInterval: o.MachinePollInterval, MaxConcurrentStarts: o.MaxConcurrentStarts,
	}))
	if err := o.addImages(mgr, images, r); err != nil {
		return err
	}
	return o.add(mgr, r, watches)
}

// add adds what turns to mgr.
func (o *AgentOptions) add(mgr ctrl.Manager, r *bottle.Reconciler, watches *namedwatch.Watches) error {
	if err := r.SetupWithManager(mgr); err != nil {
		return err
	}
	if err := bottle.NewNodeReconciler(r, o.MaxBottles).SetupWithManager(mgr); err != nil {
		return err
	}
	direct, err := client.New(mgr.GetConfig(), client.Options{HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return fmt.Errorf("client of the Lease: %w", err)
	}
	lease := &bottle.Lease{Client: direct, Namespace: o.Namespace, Node: o.NodeName, Clock: clock.RealClock{}}
	sweeper := &bottle.Sweeper{Reconciler: r, Live: mgr.GetAPIReader(), Grace: o.OrphanGracePeriod, Mode: bottle.SweepMode(o.OrphanMode)}
	for _, runnable := range []manager.Runnable{watches, lease, sweeper} {
		if err := mgr.Add(runnable); err != nil {
			return err
		}
	}
	return nil
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
		MaxConcurrentStarts: o.MaxConcurrentStarts, StartTimeout: o.StartTimeout,
	})
}

func (o *AgentOptions) facts(engine *docker.Engine, machines *smolvm.Driver, prober string) host.Facts {
	return nodefacts.New(nodefacts.Options{
		SmolvmDir: o.SmolvmDir, StateDir: o.StateDir, KVMDevice: o.KVMDevice, Prober: prober,
		Version: machines.Version, PingDocker: engine.Ping,
	})
}
