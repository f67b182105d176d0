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
	told  chan host.Decision
	ended chan error
	end   context.CancelFunc
}

func follow(t *testing.T, f BundlesFixture, owner host.Owner, since time.Time) follower {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	fo := follower{told: make(chan host.Decision, 100), ended: make(chan error, 1), end: cancel}
	go func() {
		fo.ended <- f.Bundles.FollowDecisions(ctx, owner, since, func(d host.Decision) { fo.told <- d })
	}()
	return fo
}

// wantTold wants these hosts, in order, and returns the decisions.
func (fo follower) wantTold(t *testing.T, hosts ...string) []host.Decision {
	t.Helper()
	var got []host.Decision
	for _, want := range hosts {
		d, err := fo.next()
		if err != nil {
			t.Fatalf("told of %d: %v, want %q", len(got), err, want)
		}
		if d.Host != want {
			t.Fatalf("told: got %+v, want one about %q", d, want)
		}
		got = append(got, d)
	}
	return got
}

// next is what is told next, however late an end was seen.
func (fo follower) next() (host.Decision, error) {
	select {
	case d := <-fo.told:
		return d, nil
	case err := <-fo.ended:
		fo.ended <- err
		select {
		case d := <-fo.told:
			return d, nil
		default:
			return host.Decision{}, fmt.Errorf("follow ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		return host.Decision{}, errors.New("got nothing within 20 s")
	}
}

// wantEnd wants an end that this error is, nil for none, with nothing told.
func (fo follower) wantEnd(t *testing.T, what string, want error) {
	t.Helper()
	select {
	case err := <-fo.ended:
		if !errors.Is(err, want) {
			t.Errorf("follow, %s: got %v, want %v", what, err, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("follow, %s: got no end within 20 s", what)
	}
	select {
	case d := <-fo.told:
		t.Errorf("follow, %s: got told of %+v, want nothing", what, d)
	default:
	}
}

func bundleDecisions(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "74")
	follow(t, f, spec.Owner, time.Time{}).wantEnd(t, "no container", host.ErrNotFound)
	wantRunning(t, f, spec)
	begin := time.Now()
	said := []host.Decision{
		{Verdict: host.VerdictAllow, Host: "a.example.com", Port: 443, Reason: "rule a.example.com:443"},
		{Verdict: host.VerdictDeny, Host: "evil\n\u202e x" + strings.Repeat("x", 100), Port: 65535, Reason: "no\x1b rule"},
		{Verdict: host.VerdictFail, Host: "c.example.com", Reason: "the name does not resolve"},
	}
	for _, d := range said {
		f.Decide(t, spec.Owner, d)
	}
	said[1].Host, said[1].Reason = `evil\n\u202e\x20x`+strings.Repeat("x", 47), `no\x1b rule`

	first := follow(t, f, spec.Owner, time.Time{})
	got := first.wantTold(t, said[0].Host, said[1].Host, said[2].Host)
	for i, d := range got {
		if at := d.Time; at.Before(begin.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
			t.Errorf("time: got %s, want about %s", at, begin)
		}
		d.Time = time.Time{}
		if d != said[i] {
			t.Errorf("decision: got %+v, want %+v", d, said[i])
		}
	}
	f.Decide(t, spec.Owner, host.Decision{Verdict: host.VerdictDeny, Host: "later.example.com", Port: 1})
	first.wantTold(t, "later.example.com")

	since := follow(t, f, spec.Owner, got[2].Time)
	since.wantTold(t, said[2].Host, "later.example.com")
	since.end()
	since.wantEnd(t, "context ended", nil)
	mustDo(t, "stop", f.Bundles.StopBundle(t.Context(), spec.Owner))
	first.wantEnd(t, "stopped", nil)
	stopped := follow(t, f, spec.Owner, got[1].Time.Add(1))
	stopped.wantTold(t, said[2].Host, "later.example.com")
	stopped.wantEnd(t, "not running", nil)
}

func bundleDecisionsEnd(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "75")
	begin := time.Now()
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
		fo := follow(t, f, spec.Owner, begin)
		fo.wantTold(t, "x.example.com")
		begin = time.Now()
		end()
		fo.wantEnd(t, what, nil)
	}
	wantRunning(t, f, spec)
	fo := follow(t, f, spec.Owner, time.Now())
	f.Decide(t, spec.Owner, host.Decision{Verdict: host.VerdictDeny, Host: "y.example.com", Port: 1})
	fo.wantTold(t, "y.example.com")
	f.Down(t)
	fo.wantEnd(t, "docker down", host.ErrUnavailable)
	follow(t, f, spec.Owner, time.Time{}).wantEnd(t, "docker still down", host.ErrUnavailable)
}
