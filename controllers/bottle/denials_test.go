// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/denials"
	"botbottle.dev/bottle-operator/internal/host"
)

// until steps the clock until done returns true. It waits for background work.
func (w *world) until(what string, done func() bool) {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !done() {
		if time.Now().After(deadline) {
			w.t.Fatalf("timed out waiting for %s", what)
		}
		w.clock.Step(time.Second)
		time.Sleep(time.Millisecond)
	}
}

func (w *world) deny(name string) {
	w.bundles.Decide(ownerOfDemo(), host.Decision{Time: w.clock.Now(), Verdict: host.VerdictDeny, Host: name, Port: 443})
}

func (w *world) denials() []string {
	if e := w.bottle(demoKey).Status.Egress; e != nil {
		return e.RecentDenials
	}
	return nil
}

func TestDenialsArePublishedAtMostOnceAMinute(t *testing.T) {
	w := running(t)
	w.bundles.Decide(ownerOfDemo(), host.Decision{Time: w.clock.Now(), Verdict: host.VerdictAllow, Host: "fine.test", Port: 443})
	w.deny("one.test")
	w.until("the first denial", func() bool { return len(w.r.denials.Recent(testUID)) > 0 })
	w.settle(demoKey)
	if got := w.denials(); !slices.Equal(got, []string{"one.test:443"}) {
		t.Fatalf("denials: got %q, want one.test:443", got)
	}
	w.api.reset()
	published := w.clock.Now()
	for i := range 40 {
		w.deny(fmt.Sprintf("flood-%d.test", i))
	}
	w.settle(demoKey)
	if got := w.api.log(); len(got) != 0 {
		t.Errorf("API writes within the minute: got %q, want none", got)
	}
	w.until("the flood", func() bool { return len(w.r.denials.Recent(testUID)) > 1 })
	if got := w.clock.Since(published); got < denials.PublishInterval-2*time.Second {
		t.Errorf("published again after %s, want %s", got, denials.PublishInterval)
	}
	w.settle(demoKey)
	if got := w.denials(); len(got) != 16 || got[0] != "flood-39.test:443" {
		t.Errorf("denials: got %d, the first %q, want 16, the latest first", len(got), got[0])
	}
	if got := w.api.log(); len(got) != 1 {
		t.Errorf("API writes for the flood: got %q, want one", got)
	}
}

// A restarted agent reports no denial twice, and keeps the reported ones.
func TestARestartedAgentFollowsFromNowOn(t *testing.T) {
	w := running(t)
	w.deny("one.test")
	w.until("the denial", func() bool { return len(w.r.denials.Recent(testUID)) > 0 })
	w.settle(demoKey)
	w.clock.Step(time.Minute)
	w.api.reset()
	w.restartAgent()
	w.settle(demoKey)
	if got := w.denials(); !slices.Equal(got, []string{"one.test:443"}) || len(w.api.log()) != 0 {
		t.Errorf("after a restart of the agent: got %q and writes %q, want the same and no writes", got, w.api.log())
	}
	w.deny("two.test")
	w.until("the next denial", func() bool { return len(w.r.denials.Recent(testUID)) > 0 })
	if got := w.r.denials.Recent(testUID); !slices.Equal(got, []string{"two.test:443"}) {
		t.Errorf("recent denials: got %q, want two.test:443", got)
	}
}

func TestOnlyTheBuiltInBundleIsFollowed(t *testing.T) {
	w := newWorld(t, demo().BundleImage(foreignImage).Obj())
	w.allowed = []string{"ghcr.io/org/*"}
	w.restartAgent()
	w.bundles.AddImage(foreignImage, 8888)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	if slices.Contains(w.faults.Calls(), "FollowDecisions "+testID) {
		t.Error("the log of a foreign image was followed, want it ignored")
	}
}
