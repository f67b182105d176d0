// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/host"
)

// round is one round of reports.
func (p *post) round() []string {
	var out []string
	p.clock.Step(enforce.RefusalsEvery)
	p.enforcer.RefusalsRound(p.t.Context(), func(_ host.Owner, destinations string) { out = append(out, destinations) })
	return out
}

func TestRefusalsAreReportedOnce(t *testing.T) {
	p := newProvenPost(t)
	if got := p.round(); len(got) != 0 {
		t.Errorf("after a proof alone: got %q, want nothing: it was the proof's doing", got)
	}
	drop := host.Drop{Proto: "tcp", Addr: netip.MustParseAddr("192.168.44.1"), Port: 22, Packets: 3}
	p.walls.AddDrop(owner(), drop)
	p.machines.AddDenials(owner().ID(), host.Denial{Time: p.clock.Now().Add(time.Second), Dest: netip.MustParseAddrPort("203.0.113.10:443")})
	got := p.round()
	if len(got) != 1 || !strings.Contains(got[0], "tcp 192.168.44.1:22") || !strings.Contains(got[0], "203.0.113.10:443") {
		t.Fatalf("got %q, want one report with both destinations", got)
	}
	p.walls.AddDrop(owner(), drop) // more of the same
	if got := p.round(); len(got) != 0 {
		t.Errorf("more of the same: got %q, want nothing", got)
	}
	p.walls.AddDrop(owner(), host.Drop{Proto: "icmp", Addr: netip.MustParseAddr("192.168.44.1"), Packets: 1})
	if got := p.round(); len(got) != 1 || !strings.Contains(got[0], "icmp 192.168.44.1") {
		t.Errorf("another destination: got %q, want it reported", got)
	}
	p.clock.Step(enforce.RepeatRefusalsAfter)
	if got := p.round(); len(got) != 1 {
		t.Errorf("an hour later: got %q, want it reported again", got)
	}
}

func TestAFloodOfDestinationsIsOneShortReport(t *testing.T) {
	p := newProvenPost(t)
	for i := range 200 {
		p.walls.AddDrop(owner(), host.Drop{Proto: "tcp", Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Port: 1, Packets: 1})
	}
	got := p.round()
	if len(got) != 1 || !strings.HasSuffix(got[0], "and 192 more") || len(got[0]) > 512 {
		t.Errorf("got %q, want one short report", got)
	}
}
