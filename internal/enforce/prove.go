// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
)

// Bounds of a proof.
const (
	// proofTimeout bounds a whole proof, so that no guest delays the proofs of
	// others. It is long because an emulated node is slow.
	proofTimeout = 3 * time.Minute
	probeTimeout = 90 * time.Second
	// patienceFloor and patienceCeiling bound how long the prober waits for a
	// silent target. Between these bounds, the wait depends on the round trip to
	// the bundle.
	patienceFloor   = 100 * time.Millisecond
	patienceCeiling = 5 * time.Second
	// These bound the targets of kinds that may have many.
	maxNeighbours, maxOtherPorts = 2, 3
)

// otherPorts are candidate ports of a bundle. A proof tries the first few that
// the Bottle does not declare. The first candidate is the port that the original
// bundle keeps to itself. There are more candidates than a Bottle can declare.
var otherPorts = []int32{9099, 22, 80, 443, 8080, 8443, 9090, 3128, 5000, 6379, 5432, 3306, 2375, 10250, 25, 111, 21, 23, 1080, 9418}

// errNoProber means that the prober could not run in the guest, so no proof
// could be made.
var errNoProber = errors.New("no prober could be run in the guest")

// prove tests the walls from inside the guest, and judges them by what the node
// saw meanwhile. It also returns what it found about each target.
func (p *prover) prove(ctx context.Context, s Subject) ([]probe.Finding, probe.Verdict, error) {
	random := make([]byte, 16)
	_, _ = rand.Read(random) // never fails
	nonce := hex.EncodeToString(random)
	plan, err := p.plan(ctx, s, nonce)
	if err != nil {
		return nil, probe.Verdict{}, err
	}
	uid := s.Spec.Owner.UID
	if err := p.watched.expect(uid, nonce, s.Version.Version, s.Version.Backend); err != nil {
		return nil, probe.Verdict{}, err
	}
	defer p.watched.expire(uid, nonce)
	before, err := p.inspectWall(ctx, s)
	if err == nil {
		err = p.Walls.ForgetDrops(ctx, s.Spec.Owner)
	}
	if err != nil {
		return nil, probe.Verdict{}, err
	}
	started := p.Clock.Now()
	defer p.discardTraces(ctx, s)
	report, err := p.runProber(ctx, s.Spec.Owner, plan)
	if err != nil {
		return nil, probe.Verdict{}, fmt.Errorf("%w: %w", errNoProber, err)
	}
	after, err := p.inspectWall(ctx, s)
	if err != nil {
		return nil, probe.Verdict{}, err
	}
	e := probe.Evidence{Plan: plan, Report: &report, Policy: s.Policy, Accepted: map[int32]uint64{}}
	for port, n := range after.Accepted {
		e.Accepted[port] = n - min(n, before.Accepted[port])
	}
	if err := p.collect(ctx, s, &e, started); err != nil {
		return nil, probe.Verdict{}, err
	}
	return e.Findings(), probe.Judge(e), nil
}

// discardTraces keeps the traces of a proof from being attributed to the guest
// itself.
func (p *prover) discardTraces(ctx context.Context, s Subject) {
	// If one of these fails, drops of the proof are reported as refusals.
	drops, _ := p.Walls.Drops(ctx, s.Spec.Owner)
	_ = p.Walls.ForgetDrops(ctx, s.Spec.Owner)
	p.proved(s.Spec.Owner.UID, p.Clock.Now(), drops)
}

// collect adds to e what the wall dropped, and what smolvm has refused since
// started.
func (p *prover) collect(ctx context.Context, s Subject, e *probe.Evidence, started time.Time) error {
	drops, err := p.Walls.Drops(ctx, s.Spec.Owner)
	if err != nil {
		return err
	}
	for _, d := range drops {
		e.Drops = append(e.Drops, probe.Drop(d))
	}
	denials, err := p.Machines.Denials(ctx, s.Spec.Owner.ID())
	if errors.Is(err, host.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	e.DenialsKnown = true
	for _, d := range denials {
		// smolvm may record whole seconds only.
		if !d.Time.Before(started.Truncate(time.Second)) {
			e.Denials = append(e.Denials, d.Dest)
		}
	}
	return nil
}

// inspectWall reads the wall back. It returns an error if the wall is not as
// specified, or if the machine does not run behind it.
func (p *prover) inspectWall(ctx context.Context, s Subject) (host.Wall, error) {
	walls, err := p.Walls.InspectWalls(ctx, []host.WallSpec{s.Spec})
	if err != nil {
		return host.Wall{}, err
	}
	w := walls[0]
	if w.Err != nil {
		return w, w.Err
	}
	if len(w.Faults) > 0 {
		return w, fmt.Errorf("the wall is not as specified: %s", w.Faults[0].What)
	}
	running, err := p.Machines.VMMs(ctx, []string{s.Spec.Owner.ID()})
	if err != nil {
		return w, err
	}
	if len(running) == 0 || outside(running, w) {
		return w, errors.New("the machine does not run behind its wall")
	}
	return w, nil
}

// runProber runs the prober in the guest. It copies the program into the guest, unless it
// is mounted there: to copy it takes as long as to run it. Which of the two runs makes no
// difference to what the report is worth: root in the guest can replace either. A guest that
// lets the mounted one hang does not get a second turn, because other proofs wait.
func (p *prover) runProber(ctx context.Context, owner host.Owner, plan probe.Plan) (probe.Report, error) {
	if p.MountedProgram != nil {
		if path := p.MountedProgram(owner.UID); path != "" {
			began := p.Clock.Now()
			report, err := p.execProber(ctx, owner.ID(), path, plan)
			if err == nil || p.Clock.Since(began) > probeTimeout/4 {
				return report, err // a prober that is missing fails sooner
			} // the guest may have unmounted it
		}
	}
	// A new name each time, because the guest may keep the last file busy.
	path := "/tmp/.bottle-guest-" + plan.Nonce[:8]
	if err := p.Machines.Copy(ctx, owner.ID(), p.GuestProgram, path); err != nil {
		return probe.Report{}, err
	}
	return p.execProber(ctx, owner.ID(), path, plan)
}

// execProber runs the prober from its path in the guest.
func (p *prover) execProber(ctx context.Context, name, path string, plan probe.Plan) (probe.Report, error) {
	in, err := probe.EncodePlan(plan)
	if err != nil {
		return probe.Report{}, err
	}
	out, errs := &limited{most: probe.MaxReport}, &limited{most: 512}
	code, err := p.Machines.Exec(ctx, name, host.ExecRequest{
		Command: []string{path, "probe"}, Stdin: bytes.NewReader(in), Stdout: out, Stderr: errs, Timeout: probeTimeout,
	})
	if err != nil {
		return probe.Report{}, err
	}
	if code != 0 {
		p.Log.Info("The prober failed", "machine", name, "exitCode", code, "stderr", printable(errs.String()))
		return probe.Report{}, fmt.Errorf("the prober ended with exit code %d", code)
	}
	return probe.DecodeReport(plan, out)
}

// limited is a Writer that keeps the first most bytes and drops the rest.
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

// printable quotes and shortens text that a guest wrote, for a log.
func printable(text string) string {
	quoted := fmt.Sprintf("%+q", text)
	return quoted[:min(len(quoted), 160)]
}
