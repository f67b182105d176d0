// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

func (w *world) refusals() []string {
	var out []string
	for _, e := range w.events() {
		if _, text, ok := strings.Cut(e, eventEgressRefused+" "); ok {
			out = append(out, text)
		}
	}
	return out
}

func TestWhatWasRefusedIsToldOnce(t *testing.T) {
	w := running(t)
	round := func() []string {
		w.clock.Step(dropsEvery)
		w.r.lookAtDrops(t.Context())
		return w.refusals()
	}
	if got := round(); len(got) != 0 {
		t.Errorf("after a proof alone: got %q, want nothing told: it was the proof's doing", got)
	}
	drop := host.Drop{Proto: "tcp", Addr: netip.MustParseAddr("192.168.44.1"), Port: 22, Packets: 3}
	w.walls.AddDrop(ownerOfDemo(), drop)
	w.machines.AddDenials(testID, host.Denial{Time: w.clock.Now().Add(time.Second), Dest: netip.MustParseAddrPort("203.0.113.10:443")})
	got := round()
	if len(got) != 1 || !strings.Contains(got[0], "tcp 192.168.44.1:22") || !strings.Contains(got[0], "203.0.113.10:443") {
		t.Fatalf("told: got %q, want one Event with both destinations", got)
	}
	w.walls.AddDrop(ownerOfDemo(), drop) // more of the same
	if got := round(); len(got) != 0 {
		t.Errorf("more of the same: got %q, want nothing", got)
	}
	w.walls.AddDrop(ownerOfDemo(), host.Drop{Proto: "icmp", Addr: netip.MustParseAddr("192.168.44.1"), Packets: 1})
	if got := round(); len(got) != 1 || !strings.Contains(got[0], "icmp 192.168.44.1") {
		t.Errorf("another destination: got %q, want it told", got)
	}
	w.clock.Step(sameDropsEvery)
	if got := round(); len(got) != 1 {
		t.Errorf("an hour later: got %q, want it told again", got)
	}
}

func TestAFloodOfDestinationsIsOneShortEvent(t *testing.T) {
	w := running(t)
	for i := range 200 {
		w.walls.AddDrop(ownerOfDemo(), host.Drop{Proto: "tcp", Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Port: 1, Packets: 1})
	}
	w.r.lookAtDrops(t.Context())
	got := w.refusals()
	if len(got) != 1 || !strings.HasSuffix(got[0], "and 192 more") || len(got[0]) > 512 {
		t.Errorf("told: got %q, want one short Event", got)
	}
}
