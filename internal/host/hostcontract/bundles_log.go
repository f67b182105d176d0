// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// follower is one FollowDecisions call.
type follower struct {
	decided chan host.Decision
	ended   chan error
	end     context.CancelFunc
}

func follow(t *testing.T, f BundlesFixture, owner host.Owner, since time.Time) follower {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	fo := follower{decided: make(chan host.Decision, 100), ended: make(chan error, 1), end: cancel}
	go func() {
		fo.ended <- f.Bundles.FollowDecisions(ctx, owner, since, func(d host.Decision) { fo.decided <- d })
	}()
	return fo
}

// wantDecisions waits for decisions about these hosts, in order, and returns
// them.
func (fo follower) wantDecisions(t *testing.T, hosts ...string) []host.Decision {
	t.Helper()
	var got []host.Decision
	for _, want := range hosts {
		d, err := fo.next()
		if err != nil {
			t.Fatalf("after %d decisions: %v, want %q", len(got), err, want)
		}
		if d.Host != want {
			t.Fatalf("decision: got %+v, want one about %q", d, want)
		}
		got = append(got, d)
	}
	return got
}

// next returns the next decision. It also returns decisions that arrived before
// the end of the call.
func (fo follower) next() (host.Decision, error) {
	select {
	case d := <-fo.decided:
		return d, nil
	case err := <-fo.ended:
		fo.ended <- err
		select {
		case d := <-fo.decided:
			return d, nil
		default:
			return host.Decision{}, fmt.Errorf("follow ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		return host.Decision{}, errors.New("got nothing within 20 s")
	}
}

// wantEnd waits for the end of the call. It wants this error, and no further
// decisions.
func (fo follower) wantEnd(t *testing.T, what string, want error) {
	t.Helper()
	select {
	case err := <-fo.ended:
		if !errors.Is(err, want) {
			t.Errorf("follow, %s: got %v, want %v", what, err, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("follow, %s: did not end within 20 s", what)
	}
	select {
	case d := <-fo.decided:
		t.Errorf("follow, %s: got decision %+v, want none", what, d)
	default:
	}
}

func bundleDecisions(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "74")
	follow(t, f, spec.Owner, time.Time{}).wantEnd(t, "no container", host.ErrNotFound)
	wantRunning(t, f, spec)
	start := time.Now()
	written := []host.Decision{
		{Verdict: host.VerdictAllow, Host: "a.example.com", Port: 443, Reason: "rule a.example.com:443"},
		{Verdict: host.VerdictDeny, Host: "evil\n\u202e x" + strings.Repeat("x", 100), Port: 65535, Reason: "no\x1b rule", Cause: "ca\x1buse" + strings.Repeat("x", 100), Address: "10.0.0.5"},
		{Verdict: host.VerdictFail, Host: "c.example.com", Reason: "the name does not resolve", Cause: "unknown-name"},
		{Verdict: host.VerdictDeny, Reason: "only counted", LeftOut: 27000},
	}
	for _, d := range written {
		f.Decide(t, spec.Owner, d)
	}
	written[1].Host, written[1].Reason = `evil\n\u202e\x20x`+strings.Repeat("x", 47), `no\x1b rule`
	written[1].Cause = `ca\x1buse` + strings.Repeat("x", 39)

	first := follow(t, f, spec.Owner, time.Time{})
	got := first.wantDecisions(t, written[0].Host, written[1].Host, written[2].Host, "")
	for i, d := range got {
		if at := d.Time; at.Before(start.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
			t.Errorf("time: got %s, want about %s", at, start)
		}
		d.Time = time.Time{}
		if d != written[i] {
			t.Errorf("decision: got %+v, want %+v", d, written[i])
		}
	}
	f.Decide(t, spec.Owner, host.Decision{Verdict: host.VerdictDeny, Host: "later.example.com", Port: 1})
	first.wantDecisions(t, "later.example.com")

	since := follow(t, f, spec.Owner, got[2].Time)
	since.wantDecisions(t, written[2].Host, "", "later.example.com")
	since.end()
	since.wantEnd(t, "context ended", nil)
	f.stop(t, spec.Owner)
	first.wantEnd(t, "stopped", nil)
	stopped := follow(t, f, spec.Owner, got[1].Time.Add(1))
	stopped.wantDecisions(t, written[2].Host, "", "later.example.com")
	stopped.wantEnd(t, "not running", nil)
}

func bundleDecisionsEnd(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "75")
	start := time.Now()
	for what, end := range map[string]func(){
		"exited": func() { f.Exit(t, spec.Owner) },
		"deleted": func() {
			mustDo(t, "delete", f.Bundles.DeleteBundle(t.Context(), spec.Owner))
		},
		"replaced": func() {
			spec.Env = append(spec.Env, "A=1")
			wantRunning(t, f, spec)
		},
	} {
		wantRunning(t, f, spec)
		f.Decide(t, spec.Owner, host.Decision{Verdict: host.VerdictDeny, Host: "x.example.com", Port: 1})
		fo := follow(t, f, spec.Owner, start)
		fo.wantDecisions(t, "x.example.com")
		start = time.Now()
		end()
		fo.wantEnd(t, what, nil)
	}
	wantRunning(t, f, spec)
	fo := follow(t, f, spec.Owner, time.Now())
	f.Decide(t, spec.Owner, host.Decision{Verdict: host.VerdictDeny, Host: "y.example.com", Port: 1})
	fo.wantDecisions(t, "y.example.com")
	f.Down(t)
	fo.wantEnd(t, "docker down", host.ErrUnavailable)
	follow(t, f, spec.Owner, time.Time{}).wantEnd(t, "docker still down", host.ErrUnavailable)
}
