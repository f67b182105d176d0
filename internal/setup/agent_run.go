// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
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
	"botbottle.dev/bottle-operator/internal/eventsink"
	"botbottle.dev/bottle-operator/internal/imageuse"
	"botbottle.dev/bottle-operator/internal/population"
	"botbottle.dev/bottle-operator/internal/state"
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
	if err := sweepExchanges(context.Background(), p.dir, p.exchanges); err != nil {
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
	if served, err = o.addBroker(mgr, vault, environments, p.exchanges); err != nil {
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
		State: p.dir, Images: images, Exchanges: p.exchanges, Broker: served.broker, UpstreamCA: upstreamCA, Sessions: sessions, Pool: pool,
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
