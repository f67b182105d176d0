// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

func TestProveOnDemand(t *testing.T) {
	f := newProvenFixture(t)
	f.clock.Step(time.Second) // far less than between two proofs that no user requests
	got, err := f.enforcer.Prove(t.Context(), owner().UID)
	if err != nil || !got.Proven || f.proofs != 2 {
		t.Fatalf("got %+v, %v after %d proofs, want a second one that succeeds", got, err, f.proofs)
	}
	if got.Start.Before(f.clock.Now()) || got.End.Before(got.Start) {
		t.Errorf("times: got %s to %s, want them after %s", got.Start, got.End, f.clock.Now())
	}
	observed := map[string]int{}
	for _, x := range got.Findings {
		if x.Address == "" || x.Protocol == "" || x.By == "" {
			t.Errorf("finding: got %+v, want no empty field", x)
		}
		observed[x.Expected+" "+x.Observed+" "+x.By]++
	}
	for _, want := range []string{"Reached Reached WallCounter", "Refused Refused WallCounter", "Refused Unknown HostChecks"} {
		if observed[want] == 0 {
			t.Errorf("findings: got %v, want some with %q", observed, want)
		}
	}
	if observed["Refused Reached GuestReport"] > 0 {
		t.Errorf("findings: got %v, want nothing reached", observed)
	}
}

func TestProveOnDemandFails(t *testing.T) {
	f := newProvenFixture(t)
	f.clock.Step(time.Second)
	f.respond = func(target probe.Target) probe.Outcome {
		if target.Kind == probe.KindMetadata {
			return probe.Reached
		}
		return probe.TimedOut
	}
	got, err := f.enforcer.Prove(t.Context(), owner().UID)
	defer f.enforcer.Settle() // the leak is recorded after the answer
	if err != nil || got.Proven || got.Reason != v1alpha1.ReasonLeakDetected {
		t.Errorf("got %+v, %v, want a leak", got, err)
	}
	reached := 0
	for _, x := range got.Findings {
		if x.Observed == probe.ObservedReached && x.Expected == probe.ObservedRefused {
			reached++
		}
	}
	if reached == 0 {
		t.Errorf("findings: got %+v, want what was reached", got.Findings)
	}
}

func TestProveOnDemandOfNothing(t *testing.T) {
	f := newFixture(t)
	if _, err := f.enforcer.Prove(t.Context(), owner().UID); !errors.Is(err, enforce.ErrNothingToProve) {
		t.Errorf("got %v, want ErrNothingToProve", err)
	}
}

// TestProveOnDemandTogether has callers that share proofs, and one that does not wait.
func TestProveOnDemandTogether(t *testing.T) {
	f := newProvenFixture(t)
	f.clock.Step(time.Second)
	inside, goOn := make(chan struct{}, 1), make(chan struct{})
	f.during = func(probe.Plan) {
		select {
		case inside <- struct{}{}:
		default:
		}
		<-goOn
	}
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if got, err := f.enforcer.Prove(t.Context(), owner().UID); err != nil || !got.Proven {
				t.Errorf("got %+v, %v, want a proof", got, err)
			}
		})
	}
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.enforcer.Prove(ctx, owner().UID); !errors.Is(err, context.Canceled) {
		t.Errorf("who does not wait: got %v, want Canceled", err)
	}
	close(goOn)
	all.Wait()
	if f.proofs > 3 {
		t.Errorf("proofs: got %d, want the callers to share them", f.proofs)
	}
}
