// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

// fakeProver returns one outcome.
type fakeProver struct {
	outcome enforce.Outcome
	err     error
	uid     string
}

func (f *fakeProver) Prove(_ context.Context, uid string) (enforce.Outcome, error) {
	f.uid = uid
	return f.outcome, f.err
}

func TestProof(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, tt := range map[string]struct {
		outcome enforce.Outcome
		want    metav1.ConditionStatus
	}{
		"proven":       {enforce.Outcome{Proven: true, Reason: v1alpha1.ReasonBothWalls, Message: "proven"}, metav1.ConditionTrue},
		"not observed": {enforce.Outcome{Reason: v1alpha1.ReasonProofNotObserved, Message: "not seen"}, metav1.ConditionUnknown},
		"leak":         {enforce.Outcome{Reason: v1alpha1.ReasonLeakDetected, Message: "leak"}, metav1.ConditionFalse},
	} {
		t.Run(name, func(t *testing.T) {
			tt.outcome.Start, tt.outcome.End = at, at.Add(time.Second)
			tt.outcome.Findings = []probe.Finding{{Address: "192.168.44.2:8888", Protocol: "TCP", Expected: "Reached", Observed: "Reached", By: "WallCounter"}}
			prover := &fakeProver{outcome: tt.outcome}
			w.server.Prover = prover
			code, body := w.get(t, http.MethodPost, w.url("proof", nil))
			var got subresources.BottleProof
			if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusOK {
				t.Fatalf("got %d %s, %v, want a BottleProof", code, body, err)
			}
			want := subresources.BottleProof{
				TypeMeta:   metav1.TypeMeta{APIVersion: "subresources.botbottle.dev/v1alpha1", Kind: "BottleProof"},
				ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "demo", UID: "1a2b3c4d-0000-4000-8000-000000000001"},
				StartTime:  metav1.NewTime(at), FinishTime: metav1.NewTime(at.Add(time.Second)),
				Status: tt.want, Reason: tt.outcome.Reason, Message: tt.outcome.Message,
				Targets: []subresources.ProofTarget{{Address: "192.168.44.2:8888", Protocol: "TCP", Expected: "Reached", Observed: "Reached", By: "WallCounter"}},
			}
			if d := cmp.Diff(want, got); d != "" || prover.uid != demo.UID {
				t.Errorf("proof of %s (-want +got):\n%s", prover.uid, d)
			}
		})
	}
	for _, tt := range []struct {
		err  error
		code int
		text string
	}{
		{enforce.ErrNothingToProve, http.StatusConflict, "wall"},
		{enforce.ErrProofInterrupted, http.StatusConflict, "interrupted"},
		{context.DeadlineExceeded, http.StatusServiceUnavailable, "50 s"},
		{errors.New("the guest's own words"), http.StatusInternalServerError, "smolvm and docker on the node"},
	} {
		w.server.Prover = &fakeProver{err: tt.err}
		code, body := w.get(t, http.MethodPost, w.url("proof", nil))
		if code != tt.code || !strings.Contains(body, tt.text) || strings.Contains(body, "own words") {
			t.Errorf("%v: got %d %s, want %d and %q", tt.err, code, body, tt.code, tt.text)
		}
	}
	w.machines.Kill(demo.ID())
	if code, body := w.get(t, http.MethodPost, w.url("proof", nil)); code != http.StatusConflict || !strings.Contains(body, "not running") {
		t.Errorf("stopped: got %d %s, want 409", code, body)
	}
	if code, _ := w.get(t, http.MethodGet, w.url("proof", nil)); code != http.StatusMethodNotAllowed {
		t.Errorf("GET: got %d, want 405", code)
	}
}
