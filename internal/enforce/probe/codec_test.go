// SPDX-License-Identifier: Apache-2.0

package probe_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

var compared = cmpopts.EquateComparable(probe.Target{})

func TestPlanSurvives(t *testing.T) {
	for _, site := range []probe.Site{minimalSite(), fullSite()} {
		p := mustPlan(t, site)
		line, err := probe.EncodePlan(p)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(line, []byte("\n")) != 1 || line[len(line)-1] != '\n' {
			t.Errorf("got %q, want one line", line)
		}
		got, err := probe.DecodePlan(bytes.NewReader(line))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(p, got, compared); diff != "" {
			t.Errorf("plan (-want +got):\n%s", diff)
		}
	}
}

func TestDecodePlanRefuses(t *testing.T) {
	good, err := probe.EncodePlan(mustPlan(t, minimalSite()))
	if err != nil {
		t.Fatal(err)
	}
	swap := func(from, to string) io.Reader {
		if !strings.Contains(string(good), from) {
			t.Fatalf("the plan has no %q", from)
		}
		return strings.NewReader(strings.Replace(string(good), from, to, 1))
	}
	lost := errors.New("lost")
	for name, r := range map[string]io.Reader{
		"nothing":             strings.NewReader(""),
		"null":                strings.NewReader("null"),
		"half":                bytes.NewReader(good[:len(good)/2]),
		"two":                 bytes.NewReader(append(slices.Clone(good), good...)),
		"too long":            io.MultiReader(bytes.NewReader(good), strings.NewReader(strings.Repeat(" ", probe.MaxPlan))),
		"broken off":          iotest.ErrReader(lost),
		"another version":     swap(`"version":1`, `"version":2`),
		"an unknown field":    swap(`{"version":1`, `{"extra":1,"version":1`),
		"a bad nonce":         swap(nonce, "x"),
		"an unknown kind":     swap(`"gateway"`, `"moon"`),
		"an unknown protocol": swap(`"icmp"`, `"smoke"`),
		"port 0":              swap(`"port":9099`, `"port":0`),
		"a name":              swap(`"192.168.44.1"`, `"localhost"`),
		"a mapped address":    swap(`"169.254.169.254"`, `"::ffff:169.254.169.254"`),
		"two gateways":        swap(`"kind":"gateway","proto":"udp","addr":"192.168.44.1"`, `"kind":"gateway","proto":"udp","addr":"192.168.44.9"`),
		"other port declared": swap(`"port":9099`, `"port":8888`),
	} {
		if p, err := probe.DecodePlan(r); err == nil || len(p.Reach) > 0 {
			t.Errorf("%s: got %v, %v, want an error and no plan", name, p, err)
		}
	}
}

// honest returns the report of a prober behind two walls that hold.
func honest(p probe.Plan) *probe.Report {
	r := &probe.Report{Version: 1, Nonce: p.Nonce, RoundTrip: 3 * time.Millisecond}
	for _, t := range p.Reach {
		r.Results = append(r.Results, probe.Result{Target: t, Outcome: probe.Reached})
	}
	for _, t := range p.Avoid {
		r.Results = append(r.Results, probe.Result{Target: t, Outcome: probe.TimedOut})
	}
	return r
}

func TestReportSurvives(t *testing.T) {
	p := mustPlan(t, fullSite())
	r := honest(p)
	r.Results[3].Detail = "connection refused"
	line, err := probe.EncodeReport(*r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := probe.DecodeReport(p, bytes.NewReader(line))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*r, got, compared); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

func TestReportDetailsArePlain(t *testing.T) {
	p := mustPlan(t, minimalSite())
	r := honest(p)
	r.Results[0].Detail = "\x1b[2J\u202e" + strings.Repeat("é", 500)
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := probe.DecodeReport(p, bytes.NewReader(line))
	if err != nil {
		t.Fatal(err)
	}
	if d := got.Results[0].Detail; len(d) > 128 || !strings.HasPrefix(d, "?[2J??") || strings.Trim(d, "?[2J") != "" {
		t.Errorf("got detail %q, want at most 128 printable characters", d)
	}
}

func TestDecodeReportRefuses(t *testing.T) {
	p := mustPlan(t, minimalSite())
	last := len(p.Reach) + len(p.Avoid) - 1
	for name, change := range map[string]func(*probe.Report){
		"another version":     func(r *probe.Report) { r.Version = 0 },
		"another nonce":       func(r *probe.Report) { r.Nonce = strings.Repeat("f", 32) },
		"a negative trip":     func(r *probe.Report) { r.RoundTrip = -1 },
		"an endless trip":     func(r *probe.Report) { r.RoundTrip = time.Hour },
		"one too few":         func(r *probe.Report) { r.Results = r.Results[:last] },
		"one too many":        func(r *probe.Report) { r.Results = append(r.Results, r.Results[0]) },
		"one twice":           func(r *probe.Report) { r.Results[last] = r.Results[0] },
		"another order":       func(r *probe.Report) { r.Results[0], r.Results[1] = r.Results[1], r.Results[0] },
		"another kind":        func(r *probe.Report) { r.Results[1].Target.Kind = probe.KindLoopback },
		"an unknown outcome":  func(r *probe.Report) { r.Results[1].Outcome = "fine" },
		"no outcome":          func(r *probe.Report) { r.Results[1].Outcome = "" },
		"a canary unmarked":   func(r *probe.Report) { r.Results[2].Target.Canary = !r.Results[2].Target.Canary },
		"more than is read":   func(r *probe.Report) { r.Results[0].Detail = strings.Repeat("x", probe.MaxReport) },
		"an address too many": func(r *probe.Report) { r.Results[last].Target.Addr = gateway },
	} {
		r := honest(p)
		change(r)
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := probe.DecodeReport(p, bytes.NewReader(line)); err == nil || len(got.Results) > 0 {
			t.Errorf("%s: got %v, %v, want an error and no report", name, got, err)
		}
	}
}

// TestErrorsQuoteNoGuest: no error quotes what the guest wrote.
func TestErrorsQuoteNoGuest(t *testing.T) {
	p := mustPlan(t, minimalSite())
	for _, line := range []string{`{"version":"pwned"}`, `{"pwned":1}`, `pwned`, `{"version":1,"nonce":"pwned"}`} {
		_, err := probe.DecodeReport(p, strings.NewReader(line))
		if err == nil || strings.Contains(err.Error(), "pwned") {
			t.Errorf("%s: got %v, want an error that does not quote it", line, err)
		}
	}
}
