// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"fmt"
	"path/filepath"

	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"botbottle.dev/bottle-operator/internal/egresslimit"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/canary"
	"botbottle.dev/bottle-operator/internal/exchange"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostmetrics"
	"botbottle.dev/bottle-operator/internal/smolvm"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/surroundings"
)

// parts are what compose needs besides the options.
type parts struct {
	dir       *state.Dir
	cluster   string
	namespace string // of the agent's Lease
	machines  *smolvm.Driver
	calls     *hostmetrics.Metrics
	runtimes  *runtimes
	walls     host.Walls
	exchanges *exchange.Exchanges
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
	p.machines, p.walls = smolvm.New(o.smolvm(dir, p.runtimes)), p.runtimes.walls()
	guestProgram, err := o.guestProgram()
	if err != nil {
		return p, err
	}
	p.exchanges = newExchanges(dir, guestProgram)
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
	if p.limits, err = o.egressLimits(); err != nil {
		return p, err
	}
	beat, err := openHeartbeat(filepath.Join(o.StateDir, heartbeatFile), metrics.Registry)
	if err != nil {
		return p, err
	}
	canaries, err := canary.New(canary.Options{OnHit: func(t host.CanaryHit) { p.enforcer.RecordHit(t) }})
	if err != nil {
		return p, fmt.Errorf("canaries: %w", err)
	}
	p.enforcer, err = enforce.New(enforce.Options{
		Walls: p.walls, Machines: p.calls.Machines(p.machines), Canaries: canaries, State: dir, Clock: clock.RealClock{},
		Log: ctrl.Log.WithName("enforce"), Interval: o.WallCheckInterval, Metrics: counts, Limits: p.limits.Limits,
		Publish: p.runtimes.places.Publish, Published: p.runtimes.places.Published, PublishUpstreamCA: p.runtimes.places.PublishUpstreamCA, Pods: p.runtimes.pods(), Services: apiService(),
		GuestProgram: guestProgram, MountedProgram: p.exchanges.MountedProgram, ProofTargets: targets, MaxConcurrentProofs: 2 * o.MaxConcurrentStarts, Guarded: beat,
	})
	if err != nil {
		canaries.Close()
		return p, err
	}
	if err := metrics.Registry.Register(enforce.NewDropped(p.enforcer)); err != nil {
		return p, fmt.Errorf("metrics: %w", err)
	}
	p.guarding = p.guard(ctx, canaries, fail)
	return p, nil
}

// guard runs the canaries, the limits of egress and the enforcer until ctx ends. The channel
// that it returns is closed when the enforcer has ended.
func (p parts) guard(ctx context.Context, canaries *canary.Canaries, fail context.CancelCauseFunc) <-chan struct{} {
	go func() {
		if err := canaries.Start(ctx); err != nil {
			fail(fmt.Errorf("canaries: %w", err))
		}
	}()
	go p.limits.Run(ctx, p.enforcer.ApplyLimits)
	guarding := make(chan struct{})
	go func() {
		defer close(guarding)
		_ = p.enforcer.Start(ctx) // ends only when ctx ends
	}()
	return guarding
}

// keepSmolvm makes the agent keep the version of smolvm that is current now: a link such
// as /opt/smolvm/current may lead to another one while the agent uses its files.
func (o *AgentOptions) keepSmolvm() {
	// If there is nothing yet, the agent waits for it at that path.
	if dir, err := filepath.EvalSymlinks(o.SmolvmDir); err == nil {
		o.SmolvmDir = dir
	}
}

func (o *AgentOptions) smolvm(dir *state.Dir, r *runtimes) smolvm.Options {
	return smolvm.Options{
		Dir: o.SmolvmDir, Home: dir.SmolvmHome(), Cgroups: o.CgroupParent,
		Parent: r.places.Parent, BundleMemory: r.places.BundleMemory, StartTimeout: o.StartTimeout, MaxImageBytes: o.Images.MaxBytes, DiskReserve: o.Images.Reserve,
	}
}
