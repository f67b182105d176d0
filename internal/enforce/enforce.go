// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// Enforcement is the interface that the controllers use. All methods may be
// called repeatedly and concurrently.
type Enforcement interface {
	// Narrow immediately revokes whatever reach no longer allows, and never adds
	// anything. It needs neither dockerd nor smolvm nor the API server.
	Narrow(ctx context.Context, owner host.Owner, reach Reach) error
	// OpenRules makes rules the egress rules of the built-in bundle.
	// It returns ErrSuperseded if Narrow was called for a newer generation.
	OpenRules(owner host.Owner, generation int64, rules egress.Set) error
	// Limits returns the platform's limits on the rules of every Bottle. Narrow and
	// OpenRules apply them.
	Limits() egress.Limits
	// EnsureWall makes the wall and guards the machine from then on. If it
	// finds the wall open while the machine runs, it kills the machine first.
	// Once the machine is down, it releases a leak that was reported for
	// another request. It returns ErrSuperseded as OpenRules does,
	// ErrUnavailable if something that belongs to someone else keeps the wall
	// from being as specified, and otherwise the errors of host.Walls.
	EnsureWall(ctx context.Context, spec host.WallSpec, request Request) (host.Wall, error)
	// CheckPolicy compares the egress policy that smolvm persisted for a machine
	// with the one that was requested. note describes the difference.
	CheckPolicy(ctx context.Context, m PolicyCheck) (p probe.Policy, note string, err error)
	// EnsureProven starts a proof if one is due, and returns what is known. It
	// does not wait for the proof: the subscriber is notified when it ends.
	EnsureProven(s Subject) Standing
	// Leak returns the leak that counts for this request, or nil. It records
	// that the leak was reported for this request: from then on, another
	// request releases the leak.
	Leak(uid string, request Request) *state.Leak
	// TakeBreach returns the last breach of the Bottle's wall and clears it; nil
	// if there is none.
	TakeBreach(uid string) *Breach
	// Release stops guarding the machine and deletes the wall. It returns nil if
	// there is no wall. The machine must already be gone.
	Release(ctx context.Context, owner host.Owner) error
}

// Machines is the part of host.Machines that enforcement needs. The guard uses
// only VMMs and KillMachine, which do not involve smolvm.
type Machines interface {
	VMMs(ctx context.Context, names []string) ([]host.VMM, error)
	KillMachine(ctx context.Context, name string) error

	Version(ctx context.Context) (host.SmolvmVersion, error)
	Policy(ctx context.Context, name string) (host.Policy, error)
	Denials(ctx context.Context, name string) ([]host.Denial, error)
	Copy(ctx context.Context, name, from, to string) error
	Exec(ctx context.Context, name string, req host.ExecRequest) (int, error)
}

// Pods knows which bundles are containers of Pods.
type Pods interface {
	// InPod reports whether a Bottle's bundle is in a Pod. It must not wait.
	InPod(uid string) bool
	// Addresses returns the addresses of the Pod of a Bottle's bundle, and then those of
	// the Pod's gateways.
	Addresses(ctx context.Context, owner host.Owner) ([]netip.Addr, error)
}

// Options of an Enforcer. All are required unless the comment says otherwise.
type Options struct {
	Walls    host.Walls
	Machines Machines
	Canaries host.Canaries
	State    *state.Dir
	Clock    clock.WithTicker
	Log      logr.Logger
	// Interval is the time between two scans of the guard.
	Interval time.Duration
	// Limits returns the platform's present limits on egress rules; nil for none.
	// When they change, ApplyLimits must be called.
	Limits func() egress.Limits
	// Publish gives rules to the bundle of the Bottle with this UID, unless the bundle reads
	// the rules file in the Bottle's folder. Rules that allow less are published before that
	// file is written, and all others after that. It must not wait, nor need room on the
	// disk. It may be nil.
	Publish func(uid string, rules []byte) error
	// Published returns what Publish last gave to that bundle, even if an earlier agent did;
	// nil for nothing. copied is false if the bundle reads the rules file. Published must not
	// wait. It may be nil if Publish is.
	Published func(uid string) (rules []byte, copied bool)
	// PublishUpstreamCA copies the upstream authorities from the Bottle's folder to that bundle.
	// It may wait for the disk, so it is called only when rules are opened. It may be nil.
	PublishUpstreamCA func(uid string) error
	// GuestProgram is the path of the static guest binary that is copied into guests.
	GuestProgram string
	// MountedProgram returns where the same program is mounted in the guest of the Bottle
	// with this UID; "" if it is not. It may be nil: then it is mounted nowhere.
	MountedProgram func(uid string) string
	// Pods may be nil: then no bundle is in a Pod. Proofs also try to reach Services.
	Pods     Pods
	Services []netip.AddrPort
	// ProofTargets are internet addresses that proofs try to reach.
	ProofTargets []netip.AddrPort
	// MaxConcurrentProofs bounds the proofs that run at the same time. A value
	// below 1 counts as 1.
	MaxConcurrentProofs int
	// Metrics may be nil.
	Metrics *Metrics
	// Guarded is called after each successful scan, with the number of machines that are
	// guarded; it may be nil.
	Guarded func(machines int)
}

// limits returns the platform's present limits.
func (o *Options) limits() egress.Limits {
	if o.Limits == nil {
		return egress.Limits{}
	}
	return o.Limits()
}

// Enforcer implements Enforcement.
type Enforcer struct {
	watched  *registry
	leaks    *leaks
	walls    *walls
	guard    *guard
	prover   *prover
	policy   policyReader
	refusals *refusals
}

var _ Enforcement = (*Enforcer)(nil)

// ErrSuperseded means that the caller acts for an old generation of the
// Bottle: meanwhile, Narrow was called for a newer one. The caller must read
// the Bottle again.
var ErrSuperseded = errors.New("a newer generation of the Bottle has been seen")

// New returns an Enforcer. Once Start is called, it guards the machines that
// the state directory records.
func New(o Options) (*Enforcer, error) {
	watched, err := newRegistry(o.State, o.Log)
	if err != nil {
		return nil, fmt.Errorf("enforce: %w", err)
	}
	e := &Enforcer{watched: watched}
	e.leaks = &leaks{Options: o, watched: watched}
	e.guard = &guard{Options: o, watched: watched, leaks: e.leaks}
	e.walls = &walls{Options: o, watched: watched, leaks: e.leaks, guard: e.guard, copies: &copies{Options: o, watched: watched}}
	e.guard.walls = e.walls
	e.prover = newProver(o, watched, e.leaks)
	e.policy = policyReader{o.Machines}
	e.refusals = newRefusals(o, watched, e.prover)
	e.leaks.requestProof = e.prover.request
	e.prover.proved = e.refusals.ignoreUntil
	return e, nil
}

// Subscribe sets the function that is called when something happens to a
// Bottle's wall, machine or proof. changed must return soon and may be called
// at any time.
func (e *Enforcer) Subscribe(changed func(uid string)) { e.watched.subscribe(changed) }

// Start guards the machines until ctx ends. Before it returns, it waits until
// the machines of all leaks so far are killed and their evidence is written.
func (e *Enforcer) Start(ctx context.Context) error {
	err := e.guard.start(ctx)
	e.guard.wait()
	e.leaks.killing.Wait()
	return err
}

// Scan checks all machines and walls once, and returns when its findings are on the disk.
func (e *Enforcer) Scan(ctx context.Context) {
	e.guard.scan(ctx)
	e.guard.wait()
}

// RecordHit judges a hit on a canary and acts on it. It does not wait for a kill.
func (e *Enforcer) RecordHit(t host.CanaryHit) { e.leaks.onHit(t) }

// BindProofs binds the proofs that start from now on to ctx: they end when it
// ends.
func (e *Enforcer) BindProofs(ctx context.Context) { e.prover.jobs.Bind(ctx) }

// WaitProofs waits until no proof is running, and until each leak that one found
// is recorded.
func (e *Enforcer) WaitProofs() {
	e.prover.jobs.Wait()
	e.leaks.killing.Wait()
}

// CancelProof ends a running proof of the Bottle and waits until it has ended.
func (e *Enforcer) CancelProof(ctx context.Context, uid string) error {
	return e.prover.jobs.Cancel(ctx, uid)
}

// ReportRefusals calls report with the destinations that a guest tried to reach
// and was refused, until ctx ends.
func (e *Enforcer) ReportRefusals(ctx context.Context, report func(owner host.Owner, destinations string)) error {
	return e.refusals.run(ctx, report)
}

// Narrow implements Enforcement.
func (e *Enforcer) Narrow(ctx context.Context, owner host.Owner, reach Reach) error {
	return e.walls.narrow(ctx, owner, reach)
}

// OpenRules implements Enforcement.
func (e *Enforcer) OpenRules(owner host.Owner, generation int64, rules egress.Set) error {
	return e.walls.openRules(owner, generation, rules)
}

// Limits implements Enforcement.
func (e *Enforcer) Limits() egress.Limits { return e.walls.limits() }

// ApplyLimits removes what the platform's present limits do not allow from the
// rules of all Bottles, and notifies the subscriber about each of them. It never
// adds anything, and needs only the state directory. If the disk does not answer, it returns
// ErrUnavailable after a while, and must be called again.
func (e *Enforcer) ApplyLimits() error { return e.walls.applyLimits() }

// EnsureWall implements Enforcement.
func (e *Enforcer) EnsureWall(ctx context.Context, spec host.WallSpec, request Request) (host.Wall, error) {
	return e.walls.ensure(ctx, spec, request)
}

// CheckPolicy implements Enforcement.
func (e *Enforcer) CheckPolicy(ctx context.Context, m PolicyCheck) (probe.Policy, string, error) {
	return e.policy.check(ctx, m)
}

// EnsureProven implements Enforcement.
func (e *Enforcer) EnsureProven(s Subject) Standing { return e.prover.ensure(s) }

// Leak implements Enforcement.
func (e *Enforcer) Leak(uid string, request Request) *state.Leak {
	return e.leaks.report(uid, request)
}

// TakeBreach implements Enforcement.
func (e *Enforcer) TakeBreach(uid string) *Breach { return e.watched.takeBreach(uid) }

// Release implements Enforcement.
func (e *Enforcer) Release(ctx context.Context, owner host.Owner) error {
	if err := e.walls.release(ctx, owner); err != nil {
		return err
	}
	e.prover.forget(owner.UID)
	e.refusals.forget(owner.UID)
	return nil
}

// Walls returns the guarded walls, sorted by UID.
func (e *Enforcer) Walls() []host.WallSpec { return e.watched.specs() }
