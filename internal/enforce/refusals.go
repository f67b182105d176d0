// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	refusalsEvery = time.Minute
	// repeatRefusalsAfter is when the same destinations are reported again.
	repeatRefusalsAfter = time.Hour
	// maxQueries bounds the machines that smolvm is queried about in one round.
	// The next round continues after them.
	maxQueries = 50
	// maxDestinations bounds one report.
	maxDestinations = 8
	// retriesEnd is how long after a proof the node's kernel may still repeat the
	// proof's connection attempts for the VMM: 127 seconds with 6 retries, which
	// is the default of net.ipv4.tcp_syn_retries.
	retriesEnd = 130 * time.Second
)

// refusals reports the destinations that guests tried to reach and were refused,
// by their walls or by smolvm. The same destinations are reported at most once
// an hour.
type refusals struct {
	Options
	watched *registry
	prover  *prover

	mu       sync.Mutex
	reported map[string]*refusalReport // by UID
	after    string                    // the last UID that smolvm was queried about
}

type refusalReport struct {
	text string // the last report
	at   time.Time
	// ignored is the end of the last proof, which caused all refusals until then.
	ignored time.Time
	// tried is the TCP that the wall dropped during that proof.
	tried []host.Drop
}

func newRefusals(o Options, watched *registry, p *prover) *refusals {
	return &refusals{Options: o, watched: watched, prover: p, reported: map[string]*refusalReport{}}
}

// reportOf returns the last report of a Bottle. The caller holds r.mu.
func (r *refusals) reportOf(uid string) *refusalReport {
	last := r.reported[uid]
	if last == nil {
		last = &refusalReport{}
		r.reported[uid] = last
	}
	return last
}

func (r *refusals) forget(uid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.reported, uid)
}

// ignoreUntil attributes what was refused until now to a proof, and repeated
// attempts to connect to the same destinations for some time after it.
func (r *refusals) ignoreUntil(uid string, now time.Time, tried []host.Drop) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.reportOf(uid)
	last.ignored = now
	last.tried = slices.DeleteFunc(tried, func(d host.Drop) bool { return d.Proto != "tcp" })
}

// repeats returns what the kernel may still repeat of a Bottle's last proof.
func (r *refusals) repeats(uid string) []host.Drop {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.reportOf(uid)
	if r.Clock.Since(last.ignored) > retriesEnd {
		last.tried = nil
	}
	return last.tried
}

// run makes a round every minute until ctx ends.
func (r *refusals) run(ctx context.Context, report func(host.Owner, string)) error {
	ticker := r.Clock.NewTicker(refusalsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
		r.round(ctx, report)
	}
}

// round reports the new refusals of every Bottle.
func (r *refusals) round(ctx context.Context, report func(host.Owner, string)) {
	specs := r.watched.specs()
	r.mu.Lock()
	first, _ := slices.BinarySearchFunc(specs, r.after+"\x00", func(w host.WallSpec, uid string) int { return strings.Compare(w.Owner.UID, uid) })
	r.mu.Unlock()
	queries := 0
	for i := range specs {
		owner := specs[(first+i)%len(specs)].Owner
		if r.prover.jobs.Running(owner.UID) {
			continue // the proof causes the refusals
		}
		var destinations []string
		if queries < maxQueries {
			queries++
			destinations = r.refusedBySmolvm(ctx, owner)
			r.mu.Lock()
			r.after = owner.UID
			r.mu.Unlock()
		}
		destinations = append(destinations, r.droppedByWall(ctx, owner)...)
		if text := r.newText(owner.UID, destinations); text != "" {
			report(owner, text)
		}
	}
}

func (r *refusals) droppedByWall(ctx context.Context, owner host.Owner) []string {
	drops, err := r.Walls.Drops(ctx, owner)
	if err != nil {
		return nil // without a wall there is no machine
	}
	var out []string
	repeats := r.repeats(owner.UID)
	for _, d := range drops {
		if slices.ContainsFunc(repeats, func(t host.Drop) bool { return t.Proto == d.Proto && t.Addr == d.Addr && t.Port == d.Port }) {
			continue
		}
		to := d.Addr.String()
		if d.Port != 0 {
			to = netip.AddrPortFrom(d.Addr, d.Port).String()
		}
		out = append(out, d.Proto+" "+to)
	}
	return out
}

func (r *refusals) refusedBySmolvm(ctx context.Context, owner host.Owner) []string {
	v, err := r.Machines.Version(ctx)
	if err != nil || !v.EgressEvents {
		return nil
	}
	denials, err := r.Machines.Denials(ctx, owner.ID())
	if err != nil {
		return nil // the machine's own condition reports what is wrong with smolvm
	}
	r.mu.Lock()
	ignored := r.reportOf(owner.UID).ignored
	r.mu.Unlock()
	var out []string
	for _, d := range denials {
		if !d.Time.IsZero() && d.Time.After(ignored) {
			out = append(out, d.Dest.String())
		}
	}
	return out
}

// newText returns the destinations as one bounded text, or "" if the same text
// was reported within the last hour.
func (r *refusals) newText(uid string, destinations []string) string {
	if len(destinations) == 0 {
		return ""
	}
	slices.Sort(destinations)
	destinations = slices.Compact(destinations)
	text := strings.Join(destinations[:min(len(destinations), maxDestinations)], ", ")
	if more := len(destinations) - maxDestinations; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	now := r.Clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.reportOf(uid)
	if last.text == text && now.Sub(last.at) < repeatRefusalsAfter {
		return ""
	}
	last.text, last.at = text, now
	return text
}
