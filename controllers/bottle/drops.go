// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
)

// What is told of dropped packets and refused connections.
const (
	dropsEvery = time.Minute
	// sameDropsEvery is when the same destinations are told again.
	sameDropsEvery = time.Hour
	// mostAsked bounds how many machines smolvm is asked about in one round;
	// the next round goes on behind them.
	mostAsked = 50
	mostDrops = 8 // destinations in one Event
)

// toldDrops are the destinations that were last told of one Bottle.
type toldDrops struct {
	text string
	at   time.Time
	// quiet is when the last proof ended: what was refused before was its own.
	quiet time.Time
}

// dropLog keeps what was told of each Bottle, by UID.
type dropLog struct {
	mu    sync.Mutex
	told  map[string]*toldDrops
	after string // the last UID that smolvm was asked about
}

func (l *dropLog) of(uid string) *toldDrops {
	if l.told == nil {
		l.told = map[string]*toldDrops{}
	}
	t := l.told[uid]
	if t == nil {
		t = &toldDrops{}
		l.told[uid] = t
	}
	return t
}

func (l *dropLog) forget(uid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.told, uid)
}

// quiet says that all until now was a proof's doing.
func (l *dropLog) quiet(uid string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(uid).quiet = now
}

// tellDrops makes Events of what walls dropped and smolvm refused, until ctx
// ends.
func (r *Reconciler) tellDrops(ctx context.Context) error {
	ticker := r.Clock.NewTicker(dropsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
		r.lookAtDrops(ctx)
	}
}

// lookAtDrops makes one round.
func (r *Reconciler) lookAtDrops(ctx context.Context) {
	walls := r.Guard.Walls()
	r.drops.mu.Lock()
	first, _ := slices.BinarySearchFunc(walls, r.drops.after+"\x00", func(w host.WallSpec, uid string) int { return strings.Compare(w.Owner.UID, uid) })
	r.drops.mu.Unlock()
	asked := 0
	for i := range walls {
		spec := walls[(first+i)%len(walls)]
		if r.proofs.Running(spec.Owner.UID) {
			continue // its own doing
		}
		var lines []string
		if asked < mostAsked {
			asked++
			lines = r.refusedBySmolvm(ctx, spec.Owner)
			r.drops.mu.Lock()
			r.drops.after = spec.Owner.UID
			r.drops.mu.Unlock()
		}
		lines = append(lines, r.droppedByWall(ctx, spec.Owner)...)
		if len(lines) > 0 {
			r.sayDrops(ctx, spec.Owner, lines)
		}
	}
}

func (r *Reconciler) droppedByWall(ctx context.Context, owner host.Owner) []string {
	drops, err := r.Walls.Drops(ctx, owner)
	if err != nil {
		return nil // without a wall there is no machine
	}
	var out []string
	for _, d := range drops {
		to := d.Addr.String()
		if d.Port != 0 {
			to = netip.AddrPortFrom(d.Addr, d.Port).String()
		}
		out = append(out, d.Proto+" "+to)
	}
	return out
}

func (r *Reconciler) refusedBySmolvm(ctx context.Context, owner host.Owner) []string {
	v, err := r.Machines.Version(ctx)
	if err != nil || !v.EgressEvents {
		return nil
	}
	denials, err := r.Machines.Denials(ctx, owner.ID())
	if err != nil {
		return nil // the machine's own condition says what is wrong with smolvm
	}
	r.drops.mu.Lock()
	quiet := r.drops.of(owner.UID).quiet
	r.drops.mu.Unlock()
	var out []string
	for _, d := range denials {
		if !d.Time.IsZero() && d.Time.After(quiet) {
			out = append(out, d.Dest.String())
		}
	}
	return out
}

// sayDrops makes one Event of destinations, unless they were just told.
func (r *Reconciler) sayDrops(ctx context.Context, owner host.Owner, lines []string) {
	slices.Sort(lines)
	lines = slices.Compact(lines)
	text := strings.Join(lines[:min(len(lines), mostDrops)], ", ")
	if more := len(lines) - mostDrops; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	now := r.Clock.Now()
	r.drops.mu.Lock()
	told := r.drops.of(owner.UID)
	again := told.text == text && now.Sub(told.at) < sameDropsEvery
	if !again {
		told.text, told.at = text, now
	}
	r.drops.mu.Unlock()
	if again {
		return
	}
	b := &v1alpha1.Bottle{}
	k := types.NamespacedName{Namespace: owner.Namespace, Name: owner.Name}
	if err := r.Client.Get(ctx, k, b); err != nil || string(b.UID) != owner.UID {
		return
	}
	logf.FromContext(ctx).Info("A guest tried what it may not reach", "machine", owner.ID(), "destinations", text)
	r.Recorder.Eventf(b, nil, corev1.EventTypeWarning, eventEgressRefused, "Guard", "%s", "the guest tried what it may not reach, and did not: "+text)
}
