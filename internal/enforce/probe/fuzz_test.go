// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

// dice makes choices from a fuzzer's data.
type dice struct{ data []byte }

func (d *dice) roll(sides int) int {
	if len(d.data) == 0 {
		return 0
	}
	n := int(d.data[0])
	d.data = d.data[1:]
	return n % sides
}

// FuzzJudge: whatever a guest reports and does, a verdict is Proven only with
// evidence that the node alone can have seen.
func FuzzJudge(f *testing.F) {
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{1}, 200))
	f.Add(bytes.Repeat([]byte{0, 1, 2, 3, 4, 5, 6, 7}, 40))
	full := mustPlan(f, fullSite())
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		e := randomEvidence(d, full)
		v := probe.Judge(e)
		if again := probe.Judge(e); !cmp.Equal(v, again, compared) {
			t.Fatalf("judged twice: got %v, then %v", v, again)
		}
		if (v.Result == probe.Confessed) != (len(v.Reached) > 0) {
			t.Fatalf("got %v, want reached targets if and only if the prober confessed", v)
		}
		if v.Result == probe.Proven {
			mustHaveSeen(t, e)
		}
		if v.Both && (v.Result != probe.Proven || e.Policy != probe.PolicyExact || !e.DenialsKnown || v.PolicyNote != "" ||
			!deniedAddr(e, gateway) || !deniedAddr(e, netip.MustParseAddr("169.254.169.254")) || droppedAddr(e, gateway)) {
			t.Fatalf("got both walls proven by %+v", e)
		}
		if v.Result == probe.NotObserved && len(v.Missing) == 0 {
			t.Fatal("not observed, but nothing is missing")
		}
	})
}

// mustHaveSeen checks the evidence that a proof needs, independently of Judge.
func mustHaveSeen(t *testing.T, e probe.Evidence) {
	t.Helper()
	for _, r := range e.Plan.Reach {
		if e.Accepted[int32(r.Port)] == 0 {
			t.Fatalf("proven, but no packet went to %s", r)
		}
	}
	for _, a := range e.Plan.Avoid {
		if a.Kind != probe.KindOtherPort {
			continue
		}
		dropped := slices.ContainsFunc(e.Drops, func(d probe.Drop) bool {
			return d.Proto == "tcp" && d.Addr == a.Addr && d.Port == a.Port && d.Packets > 0
		})
		if !dropped && (!e.DenialsKnown || !slices.Contains(e.Denials, netip.AddrPortFrom(a.Addr, a.Port))) {
			t.Fatalf("proven, but nobody saw %s tried", a)
		}
	}
	silent := !e.DenialsKnown && e.Policy != probe.PolicyDiffers && e.Policy != probe.PolicyDropped
	if !silent && !droppedAddr(e, gateway) && (!e.DenialsKnown || !deniedAddr(e, gateway)) {
		t.Fatal("proven, but nobody saw the gateway tried")
	}
	if e.Report == nil || e.Report.Nonce != e.Plan.Nonce {
		t.Fatal("proven without a report on this plan")
	}
}

func droppedAddr(e probe.Evidence, a netip.Addr) bool {
	return slices.ContainsFunc(e.Drops, func(d probe.Drop) bool { return d.Addr == a && d.Packets > 0 })
}

func deniedAddr(e probe.Evidence, a netip.Addr) bool {
	return slices.ContainsFunc(e.Denials, func(d netip.AddrPort) bool { return d.Addr() == a })
}

// randomEvidence favours good evidence, because otherwise nothing would ever be
// proven.
func randomEvidence(d *dice, p probe.Plan) probe.Evidence {
	e := probe.Evidence{Plan: p, Report: honest(p), Accepted: map[int32]uint64{}}
	e.DenialsKnown = d.roll(2) == 0
	e.Policy = []probe.Policy{probe.PolicyExact, probe.PolicyDiffers, probe.PolicyUnknown, "", probe.PolicyDropped}[d.roll(5)]
	for i := range e.Report.Results {
		if d.roll(8) == 7 {
			e.Report.Results[i].Outcome = []probe.Outcome{probe.Reached, probe.Accepted, probe.Refused, probe.NotTried, "x"}[d.roll(5)]
		}
	}
	if d.roll(16) == 15 {
		e.Report = []*probe.Report{nil, {Version: 1, Nonce: nonce}, {}}[d.roll(3)]
	}
	for _, r := range p.Reach {
		e.Accepted[int32(r.Port)] = uint64(1 - d.roll(8)/7)
	}
	for _, a := range p.Avoid {
		switch d.roll(4) {
		case 0, 1:
			e.Denials = append(e.Denials, netip.AddrPortFrom(a.Addr, a.Port))
		case 2:
			e.Drops = append(e.Drops, probe.Drop{Proto: []string{"tcp", "udp", "arp", "icmp"}[d.roll(4)], Addr: a.Addr, Port: a.Port, Packets: uint64(d.roll(3))})
		}
		if a.Kind == probe.KindOtherPort && d.roll(4) != 3 {
			e.Drops = append(e.Drops, probe.Drop{Proto: "tcp", Addr: a.Addr, Port: a.Port, Packets: 1})
		}
	}
	return e
}

// FuzzDecodeReport: any data may be decoded. A decoded report matches the plan,
// is bounded and printable, and survives encoding and decoding unchanged.
func FuzzDecodeReport(f *testing.F) {
	p := mustPlan(f, minimalSite())
	good, err := json.Marshal(honest(p))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.Replace(good, []byte(`"timed out"`), []byte(`"reached","detail":"\u001b[2Jé"`), 3))
	for _, seed := range []string{"", "null", "{}", "[]", `{"version":1}`, `{"results":null}`, `{"version":1,"nonce":"` + nonce + `","results":[null]}`} {
		f.Add([]byte(seed))
	}
	want := slices.Concat(p.Reach, p.Avoid)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := probe.DecodeReport(p, bytes.NewReader(data))
		if err != nil {
			if r.Results != nil || len(err.Error()) > 200 {
				t.Fatalf("got %v and an error of %d bytes, want no report and a short one", r, len(err.Error()))
			}
			return
		}
		for i, result := range r.Results {
			if result.Target != want[i] {
				t.Fatalf("result %d: got %s, want %s", i, result.Target, want[i])
			}
			if len(result.Detail) > 128 || strings.ContainsFunc(result.Detail, func(c rune) bool { return c < ' ' || c > '~' }) {
				t.Fatalf("got detail %q", result.Detail)
			}
		}
		line, err := probe.EncodeReport(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := probe.DecodeReport(p, bytes.NewReader(line))
		if err != nil || !cmp.Equal(r, again, compared) {
			t.Fatalf("encoded and decoded: got %v, %v, want %v", again, err, r)
		}
	})
}
