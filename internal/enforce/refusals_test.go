// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/internal/host"
)

// round makes one round of reports and returns them.
func (f *fixture) round() []string {
	var out []string
	f.clock.Step(enforce.RefusalsEvery)
	f.enforcer.RefusalsRound(f.t.Context(), func(_ host.Owner, destinations string) { out = append(out, destinations) })
	return out
}

func TestRefusalsAreReportedOnce(t *testing.T) {
	f := newProvenFixture(t)
	if got := f.round(); len(got) != 0 {
		t.Errorf("after a proof alone: got %q, want nothing: it was the proof's doing", got)
	}
	drop := host.Drop{Proto: "tcp", Addr: netip.MustParseAddr("192.168.44.1"), Port: 22, Packets: 3}
	f.walls.AddDrop(owner(), drop)
	f.machines.AddDenials(owner().ID(), host.Denial{Time: f.clock.Now().Add(time.Second), Dest: netip.MustParseAddrPort("203.0.113.10:443")})
	got := f.round()
	if len(got) != 1 || !strings.Contains(got[0], "tcp 192.168.44.1:22") || !strings.Contains(got[0], "203.0.113.10:443") {
		t.Fatalf("got %q, want one report with both destinations", got)
	}
	f.walls.AddDrop(owner(), drop) // another packet to the same destination
	if got := f.round(); len(got) != 0 {
		t.Errorf("the same destination: got %q, want nothing", got)
	}
	f.walls.AddDrop(owner(), host.Drop{Proto: "icmp", Addr: netip.MustParseAddr("192.168.44.1"), Packets: 1})
	if got := f.round(); len(got) != 1 || !strings.Contains(got[0], "icmp 192.168.44.1") {
		t.Errorf("another destination: got %q, want it reported", got)
	}
	f.clock.Step(enforce.RepeatRefusalsAfter)
	if got := f.round(); len(got) != 1 {
		t.Errorf("an hour later: got %q, want it reported again", got)
	}
}

// The kernel repeats a connection attempt of the VMM for up to two minutes, also
// after the prober has given it up.
func TestRepeatedAttemptsOfAProofAreNotReported(t *testing.T) {
	f := newProvenFixture(t)
	ofProof := host.Drop{Proto: "tcp", Addr: netip.MustParseAddr("192.168.44.2"), Port: 22, Packets: 1}
	arp := host.Drop{Proto: "arp", Addr: netip.MustParseAddr("192.168.44.1"), Packets: 1}
	f.during = func(probe.Plan) { f.walls.AddDrop(owner(), ofProof); f.walls.AddDrop(owner(), arp) }
	if _, err := f.enforcer.Prove(t.Context(), owner().UID); err != nil {
		t.Fatal(err)
	}
	f.walls.AddDrop(owner(), ofProof)
	if got := f.round(); len(got) != 0 {
		t.Errorf("a minute after the proof: got %q, want nothing: it was the proof's doing", got)
	}
	other := host.Drop{Proto: "tcp", Addr: netip.MustParseAddr("192.168.44.2"), Port: 2222, Packets: 1}
	f.walls.AddDrop(owner(), other)
	f.walls.AddDrop(owner(), arp)
	if got := f.round(); len(got) != 1 || got[0] != "arp 192.168.44.1, tcp 192.168.44.2:2222" {
		t.Errorf("what the proof did not try, and what the kernel does not repeat: got %q, want it reported", got)
	}
	if got := f.round(); len(got) != 1 || !strings.Contains(got[0], "arp 192.168.44.1,") || !strings.Contains(got[0], "tcp 192.168.44.2:22,") {
		t.Errorf("three minutes after the proof: got %q, want all destinations reported", got)
	}
}

func TestAFloodOfDestinationsIsOneShortReport(t *testing.T) {
	f := newProvenFixture(t)
	for i := range 200 {
		f.walls.AddDrop(owner(), host.Drop{Proto: "tcp", Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Port: 1, Packets: 1})
	}
	got := f.round()
	if len(got) != 1 || !strings.HasSuffix(got[0], "and 192 more") || len(got[0]) > 512 {
		t.Errorf("got %q, want one short report", got)
	}
}
