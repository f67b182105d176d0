// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"time"

	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/guard"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/probe"
)

// Bounds of a proof.
const (
	// proofTimeout bounds a whole proof, so that no guest holds up the others':
	// an emulated node takes its time.
	proofTimeout = 3 * time.Minute
	probeTimeout = 90 * time.Second
	// patienceFloor and patienceCeiling bound how long a target that stays
	// silent is waited for; in between it follows from the way to the bundle.
	patienceFloor   = 100 * time.Millisecond
	patienceCeiling = 5 * time.Second
	// most of each kind of target that may be many.
	mostNeighbours, mostOther = 2, 3
)

// otherPorts are ports of a bundle of which the first that are not declared are
// tried: the first of all is what the original bundle keeps for itself. There
// are more than a Bottle can declare.
var otherPorts = []int32{9099, 22, 80, 443, 8080, 8443, 9090, 3128, 5000, 6379, 5432, 3306, 2375, 10250, 25, 111, 21, 23, 1080, 9418}

// errNoProber: the guest is such that no proof can be made in it.
var errNoProber = errors.New("no prober could be run in the guest")

// proofTask is all that a proof needs of its Bottle.
type proofTask struct {
	key, asked string
	spec       host.WallSpec
	policy     probe.Policy
	version    host.SmolvmVersion
}

func (r *Reconciler) beginProof(s *scope) {
	t := proofTask{
		key: s.proofKey(), asked: s.bottle.Annotations[v1alpha1.AnnotationProve],
		spec: s.wallSpec(), policy: probe.Policy(s.record.Policy), version: s.version,
	}
	k := s.key()
	r.proofs.Start(s.owner.UID, func(ctx context.Context) proofResult {
		ctx, cancel := context.WithTimeout(ctx, proofTimeout)
		defer cancel()
		verdict, err := r.prove(ctx, t)
		if err == nil && verdict.Result == probe.Leak {
			// At once: no pass may get as far as to take the result.
			r.Guard.Leaked(s.owner.UID, verdict.Path)
		}
		return proofResult{key: t.key, asked: t.asked, verdict: verdict, err: err}
	}, func() { r.Enqueue(k) })
}

// prove tries the walls from inside the guest, and judges by what the node saw
// meanwhile.
func (r *Reconciler) prove(ctx context.Context, t proofTask) (probe.Verdict, error) {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, says crypto/rand
	nonce := hex.EncodeToString(b)
	plan, err := r.plan(t, nonce)
	if err != nil {
		return probe.Verdict{}, err
	}
	if err := r.Guard.Expect(t.spec.Owner.UID, nonce, t.version.Version, t.version.Backend); err != nil {
		return probe.Verdict{}, err
	}
	before, err := r.inspectWall(ctx, t)
	if err == nil {
		err = r.Walls.ForgetDrops(ctx, t.spec.Owner)
	}
	if err != nil {
		return probe.Verdict{}, err
	}
	begun := r.Clock.Now()
	defer r.endProof(ctx, t)
	report, err := r.runProber(ctx, t.spec.Owner.ID(), plan)
	if err != nil {
		return probe.Verdict{}, fmt.Errorf("%w: %w", errNoProber, err)
	}
	after, err := r.inspectWall(ctx, t)
	if err != nil {
		return probe.Verdict{}, err
	}
	e := probe.Evidence{Plan: plan, Report: &report, Policy: t.policy, Subnet: t.spec.Subnet, Accepted: map[int32]uint64{}}
	for port, n := range after.Accepted {
		e.Accepted[port] = n - min(n, before.Accepted[port])
	}
	return r.judge(ctx, t, e, begun)
}

// endProof leaves nothing of a proof to be taken for the guest's own doing.
func (r *Reconciler) endProof(ctx context.Context, t proofTask) {
	_ = r.Walls.ForgetDrops(ctx, t.spec.Owner) // what is left is told as refused
	r.drops.quiet(t.spec.Owner.UID, r.Clock.Now())
}

// judge adds what was dropped, refused and touched since begun, and judges.
func (r *Reconciler) judge(ctx context.Context, t proofTask, e probe.Evidence, begun time.Time) (probe.Verdict, error) {
	drops, err := r.Walls.Drops(ctx, t.spec.Owner)
	if err != nil {
		return probe.Verdict{}, err
	}
	for _, d := range drops {
		e.Drops = append(e.Drops, probe.Drop(d))
	}
	denials, err := r.Machines.Denials(ctx, t.spec.Owner.ID())
	switch {
	case errors.Is(err, host.ErrUnsupported):
	case err != nil:
		return probe.Verdict{}, err
	default:
		e.DenialsKnown = true
		for _, d := range denials {
			// smolvm may keep whole seconds only.
			if !d.Time.Before(begun.Truncate(time.Second)) {
				e.Denials = append(e.Denials, d.Dest)
			}
		}
	}
	for _, touch := range r.Guard.State(t.spec.Owner.UID).Touches {
		e.Touches = append(e.Touches, probe.Touch{Proto: touch.Proto, Local: touch.Local, Remote: touch.Remote, Nonce: touch.Nonce})
	}
	return probe.Judge(e), nil
}

// inspectWall reads the wall back and wants it, and the machine within it, as
// they should be.
func (r *Reconciler) inspectWall(ctx context.Context, t proofTask) (host.Wall, error) {
	walls, err := r.Walls.InspectWalls(ctx, []host.WallSpec{t.spec})
	if err != nil {
		return host.Wall{}, err
	}
	w := walls[0]
	if w.Err != nil {
		return w, w.Err
	}
	if len(w.Faults) > 0 {
		return w, fmt.Errorf("the wall is not as it should be: %s", w.Faults[0].What)
	}
	vmms, err := r.Machines.VMMs(ctx, []string{t.spec.Owner.ID()})
	if err != nil {
		return w, err
	}
	if len(vmms) == 0 || slices.ContainsFunc(vmms, func(v host.VMM) bool { return v.NetNS != w.NetNS }) {
		return w, errors.New("the machine does not run within its wall")
	}
	return w, nil
}

// plan is what to try for this Bottle on this node.
func (r *Reconciler) plan(t proofTask, nonce string) (probe.Plan, error) {
	tcp, udp := r.Canaries.Ports()
	site := probe.Site{
		Nonce: nonce, BundleIP: t.spec.BundleIP, Ports: t.spec.Ports, Gateway: guard.Gateway(t.spec),
		CanaryTCP: tcp, CanaryUDP: udp, Public: r.ProofTargets,
		Floor: patienceFloor, Ceiling: patienceCeiling,
	}
	for _, port := range otherPorts {
		if !slices.Contains(t.spec.Ports, port) && len(site.Other) < mostOther {
			site.Other = append(site.Other, port)
		}
	}
	addresses, err := r.Canaries.Addresses()
	if err != nil {
		return probe.Plan{}, err
	}
	// Gateways of Bottles are no further ways to the node.
	gateways := map[netip.Addr]bool{}
	for _, w := range r.Guard.Walls() {
		gateways[guard.Gateway(w)] = true
	}
	for _, a := range addresses {
		if !gateways[a] && a != t.spec.BundleIP {
			site.Node = append(site.Node, a)
		}
	}
	for _, n := range r.Guard.Neighbours(t.spec.Owner.UID, mostNeighbours) {
		if len(n.Ports) > 0 {
			site.Neighbours = append(site.Neighbours, netip.AddrPortFrom(n.BundleIP, uint16(n.Ports[0])))
		}
	}
	return site.Plan()
}

// runProber copies the prober into the guest and runs it there.
func (r *Reconciler) runProber(ctx context.Context, name string, plan probe.Plan) (probe.Report, error) {
	in, err := probe.EncodePlan(plan)
	if err != nil {
		return probe.Report{}, err
	}
	// A name of its own each time: the guest may keep the last one busy.
	path := "/tmp/.bottle-probe-" + plan.Nonce[:8]
	if err := r.Machines.Copy(ctx, name, r.Prober, path); err != nil {
		return probe.Report{}, err
	}
	out, errs := &limited{most: probe.MaxReport}, &limited{most: 512}
	code, err := r.Machines.Exec(ctx, name, host.ExecRequest{
		Command: []string{path}, Stdin: bytes.NewReader(in), Stdout: out, Stderr: errs, Timeout: probeTimeout,
	})
	if err != nil {
		return probe.Report{}, err
	}
	if code != 0 {
		logf.FromContext(ctx).Info("The prober failed", "machine", name, "exitCode", code, "said", printable(errs.String()))
		return probe.Report{}, fmt.Errorf("the prober ended with exit code %d", code)
	}
	return probe.DecodeReport(plan, out)
}

// limited keeps the beginning of what is written and drops the rest.
type limited struct {
	bytes.Buffer
	most int
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.most - l.Len(); room > 0 {
		_, _ = l.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

var _ io.Writer = (*limited)(nil)

// printable is what a guest said, fit for a log.
func printable(text string) string {
	quoted := fmt.Sprintf("%+q", text)
	return quoted[:min(len(quoted), 160)]
}
