// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"botbottle.dev/bottle-operator/controllers/bottle"
	"botbottle.dev/bottle-operator/internal/access"
	"botbottle.dev/bottle-operator/internal/agentmetrics"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/egresslimit"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/canary"
	"botbottle.dev/bottle-operator/internal/eventsink"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostmetrics"
	"botbottle.dev/bottle-operator/internal/imageuse"
	"botbottle.dev/bottle-operator/internal/population"
	"botbottle.dev/bottle-operator/internal/smolvm"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/surroundings"
)

const (
	// agentName is the reporting controller of the agent's Events.
	agentName = "botbottle.dev/agent"
	// lockTimeout is how long a new agent waits for the old one to end.
	lockTimeout = 20 * time.Second
	// guardTimeout is how long an ending agent waits for its guard.
	guardTimeout = 10 * time.Second
)

// Run runs the agent until ctx ends. It starts the guard first, then the health
// and metrics servers. Everything else waits for the API server, for as long as
// that takes.
func (o *AgentOptions) Run(ctx context.Context) error {
	if err := o.Validate(); err != nil {
		return err
	}
	limitGarbage()
	if err := forbidCoreDumps(); err != nil {
		return err
	}
	o.keepSmolvm()
	cfg, err := o.restConfig("bottle-agent")
	if err != nil {
		return err
	}
	dir, err := o.openState(ctx)
	if err != nil {
		return err
	}
	// The guard outlives ctx, because machines keep running while the rest of the
	// agent shuts down.
	guardCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	parts, err := o.startGuard(guardCtx, dir, fail)
	if err != nil {
		return err
	}
	defer func() {
		stop()
		select { // a leak's evidence may still be written
		case <-parts.guarding:
		case <-time.After(guardTimeout):
		}
	}()
	api, err := newAPIServer(cfg, metrics.Registry)
	if err != nil {
		return err
	}
	if err := o.serve(guardCtx, cfg, healthHandler(parts.guarding, api), metrics.Registry, fail); err != nil {
		return err
	}
	err = o.manage(ctx, cfg, parts, api)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause // err is only its consequence
	}
	if errors.Is(err, context.Canceled) {
		return nil // a normal end
	}
	return err
}

// manage connects to the API server and runs the Bottles of this node.
func (o *AgentOptions) manage(ctx context.Context, cfg *rest.Config, p parts, api *apiServer) error {
	if err := o.renewToken(ctx, cfg, metrics.Registry); err != nil {
		return err
	}
	var err error
	if p.surroundings, err = o.surroundings(cfg); err != nil {
		return err
	}
	go p.surroundings.Run(ctx)
	c, err := o.connect(ctx, cfg, p.dir, api)
	if err != nil {
		return err
	}
	p.cluster, p.namespace = c.cluster, c.namespace
	p.surroundings.FollowCluster(ctx, c.mgr.GetAPIReader())
	if err := o.compose(c.mgr, p); err != nil {
		return err
	}
	api.setSynced(c.mgr.GetCache().WaitForCacheSync)
	return c.mgr.Start(ctx)
}

// parts are what compose needs besides the options.
type parts struct {
	dir       *state.Dir
	cluster   string
	namespace string // of the agent's Lease
	machines  *smolvm.Driver
	calls     *hostmetrics.Metrics
	runtimes  *runtimes
	walls     host.Walls
	limits    *egresslimit.Source
	// surroundings are set by manage, because only new Bottles need them.
	surroundings *surroundings.Source
	enforcer     *enforce.Enforcer
	guarding     <-chan struct{} // closed when the guard has ended
}

// startGuard starts to guard the machines that an earlier agent left behind. It
// does so before the agent contacts dockerd or the API server. It calls fail to
// end the agent if the canaries fail, because without them the absence of hits
// proves nothing.
func (o *AgentOptions) startGuard(ctx context.Context, dir *state.Dir, fail context.CancelCauseFunc) (parts, error) {
	p := parts{dir: dir}
	var err error
	if p.runtimes, err = o.openRuntimes(dir); err != nil {
		return p, err
	}
	p.machines, p.walls = o.smolvm(dir, p.runtimes), p.runtimes.walls()
	guestProgram, err := o.guestProgram()
	if err != nil {
		return p, err
	}
	targets, err := o.proofTargets()
	if err != nil {
		return p, err
	}
	if p.calls, err = hostmetrics.New(metrics.Registry); err != nil {
		return p, fmt.Errorf("metrics: %w", err)
	}
	counts, err := enforce.NewMetrics(metrics.Registry)
	if err != nil {
		return p, fmt.Errorf("metrics: %w", err)
	}
	canaries, err := canary.New(canary.Options{OnHit: func(t host.CanaryHit) { p.enforcer.RecordHit(t) }})
	if err != nil {
		return p, fmt.Errorf("canaries: %w", err)
	}
	if p.limits, err = o.egressLimits(); err != nil {
		canaries.Close()
		return p, err
	}
	beat, err := openHeartbeat(filepath.Join(o.StateDir, heartbeatFile), metrics.Registry)
	if err != nil {
		canaries.Close()
		return p, err
	}
	p.enforcer, err = enforce.New(enforce.Options{
		Walls: p.walls, Machines: p.calls.Machines(p.machines), Canaries: canaries, State: dir, Clock: clock.RealClock{},
		Log: ctrl.Log.WithName("enforce"), Interval: o.WallCheckInterval, Metrics: counts, Limits: p.limits.Limits,
		Publish: p.runtimes.places.Publish, Pods: p.runtimes.pods(), Services: apiService(),
		GuestProgram: guestProgram, ProofTargets: targets, MaxConcurrentProofs: 2 * o.MaxConcurrentStarts, Guarded: beat,
	})
	if err != nil {
		canaries.Close()
		return p, err
	}
	if err := metrics.Registry.Register(enforce.NewDropped(p.enforcer)); err != nil {
		return p, fmt.Errorf("metrics: %w", err)
	}
	go func() {
		if err := canaries.Start(ctx); err != nil {
			fail(fmt.Errorf("canaries: %w", err))
		}
	}()
	go p.limits.Run(ctx, p.enforcer.ApplyLimits)
	guarding := make(chan struct{})
	p.guarding = guarding
	go func() {
		defer close(guarding)
		_ = p.enforcer.Start(ctx) // ends only when ctx ends
	}()
	return p, nil
}

// compose creates the agent's remaining parts and adds them to mgr.
func (o *AgentOptions) compose(mgr ctrl.Manager, p parts) error {
	vault, err := openVault(context.Background(), p)
	if err != nil {
		return err
	}
	engine, load, err := o.docker(p, vault)
	if err != nil {
		return err
	}
	if err := p.runtimes.connect(o, p.cluster); err != nil {
		return err
	}
	networks, bundles := p.runtimes.networks(engine), p.runtimes.bundles(engine)
	pool, err := o.pool()
	if err != nil {
		return err
	}
	counts, err := o.bottleMetrics(mgr)
	if err != nil {
		return err
	}
	guestProgram, err := o.guestProgram()
	if err != nil {
		return err
	}
	facts, err := o.addFacts(mgr, engine, p, guestProgram)
	if err != nil {
		return err
	}
	var r *bottle.Reconciler
	images, err := o.openImages(p, engine, func(uid, reason, message string) { r.ImageEvent(uid, reason, message) })
	if err != nil {
		return err
	}
	exchanges, err := openExchanges(context.Background(), p.dir, guestProgram)
	if err != nil {
		return err
	}
	var served brokers
	environments, err := newEnvironmentWatch(mgr, func(bottle client.ObjectKey) {
		served.controller.Enqueue(bottle)
		r.Enqueue(bottle)
	})
	if err != nil {
		return err
	}
	if served, err = o.addBroker(mgr, vault, environments, exchanges); err != nil {
		return err
	}
	upstreamCA, err := o.upstreamCA()
	if err != nil {
		return err
	}
	recorder, err := eventsink.NewRecorder(mgr, agentName, o.NodeName)
	if err != nil {
		return err
	}
	sessions := access.NewSessions(clock.RealClock{})
	r = bottle.New(bottle.Options{
		Node: o.NodeName, Cluster: p.cluster,
		Client: mgr.GetClient(), Recorder: recorder, References: environments,
		Runtimes: &bundleruntime.Runtimes{Choices: p.runtimes.set.Choices, Places: p.runtimes.places},
		Networks: p.calls.Networks(networks), Bundles: p.calls.Bundles(bundles), Machines: p.calls.Machines(p.machines), Facts: facts,
		Walls: p.walls, Enforcement: p.enforcer, Surroundings: p.surroundings,
		RequireProof: o.RequireProof, RequireSmolvmPolicy: o.RequireSmolvmPolicy,
		State: p.dir, Images: images, Exchanges: exchanges, Broker: served.broker, UpstreamCA: upstreamCA, Sessions: sessions, Pool: pool,
		Clock: clock.RealClock{}, Metrics: counts,
		DefaultImage: o.DefaultImage, AllowedBundleImages: o.AllowedBundleImages,
		MachinePollInterval: o.MachinePollInterval, MaxConcurrentStarts: o.MaxConcurrentStarts, FirstReportDelay: time.Second,
	})
	if err := o.addImages(mgr, images, &imageuse.Users{Bottles: mgr.GetClient(), State: p.dir, Machines: r.Machines}); err != nil {
		return err
	}
	if err := errors.Join(mgr.Add(environments), mgr.Add(load), mgr.Add(manager.RunnableFunc(p.runtimes.follow))); err != nil {
		return err
	}
	return errors.Join(o.addNode(mgr, facts, p.namespace, p.limits.SetExternal), o.addAccess(mgr, p, r, sessions), o.add(mgr, r))
}

// bottleMetrics registers the metrics about this node's Bottles.
func (o *AgentOptions) bottleMetrics(mgr ctrl.Manager) (*agentmetrics.Metrics, error) {
	counts, err := agentmetrics.New(metrics.Registry)
	if err == nil {
		err = metrics.Registry.Register(population.New(mgr.GetCache(), o.NodeName))
	}
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return counts, nil
}

// openState opens and locks the state directory. It waits up to lockTimeout for
// an earlier agent to end.
func (o *AgentOptions) openState(ctx context.Context) (*state.Dir, error) {
	dir, err := state.Open(o.StateDir)
	if err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	lockCtx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		err := dir.Lock()
		if !errors.Is(err, state.ErrInUse) {
			return dir, err
		}
		select {
		case <-lockCtx.Done():
			return nil, fmt.Errorf("--state-dir: %w", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// keepSmolvm makes the agent keep the version of smolvm that is current now: a link such
// as /opt/smolvm/current may lead to another one while the agent uses its files.
func (o *AgentOptions) keepSmolvm() {
	// If there is nothing yet, the agent waits for it at that path.
	if dir, err := filepath.EvalSymlinks(o.SmolvmDir); err == nil {
		o.SmolvmDir = dir
	}
}

func (o *AgentOptions) smolvm(dir *state.Dir, r *runtimes) *smolvm.Driver {
	return smolvm.New(smolvm.Options{
		Dir: o.SmolvmDir, Home: dir.SmolvmHome(), Cgroups: o.CgroupParent,
		Parent: r.places.Parent, StartTimeout: o.StartTimeout, MaxImageBytes: o.Images.MaxBytes, DiskReserve: o.Images.Reserve,
	})
}
