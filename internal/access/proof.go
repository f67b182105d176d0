// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/host"
)

// proofTimeout is how long a client may wait for a proof. The manager waits a little
// longer. The proof itself goes on.
const proofTimeout = 50 * time.Second

// Prover proves what a guest can reach.
type Prover interface {
	// Prove makes a proof of the Bottle with this UID now and waits for it.
	Prove(ctx context.Context, uid string) (enforce.Outcome, error)
}

// proof makes a proof and sends what it found.
func (s *Server) proof(c *session) error {
	owner := c.bottle.Owner
	end, err := s.Sessions.begin(owner.UID, reading, maxReaders)
	if errors.Is(err, errMachineFull) {
		err = tooMany("%d requests about the Bottle are being served, the most that are possible at a time", maxReaders)
	}
	if err != nil {
		return c.fail(err)
	}
	defer end()
	ctx, cancel := context.WithTimeout(c.r.Context(), proofTimeout)
	defer cancel()
	running, err := s.Machines.VMMs(ctx, []string{owner.ID()})
	if err == nil && len(running) == 0 {
		err = host.ErrNotRunning
	}
	if err != nil {
		return c.fail(err)
	}
	out, err := s.Prover.Prove(ctx, owner.UID)
	switch {
	case errors.Is(err, enforce.ErrNothingToProve), errors.Is(err, enforce.ErrProofInterrupted):
		return c.fail(apierrors.NewConflict(bottles, owner.Name, err))
	case errors.Is(err, context.DeadlineExceeded):
		return c.fail(apierrors.NewServiceUnavailable("the proof takes longer than 50 s; the condition EgressEnforced will show its result"))
	case err != nil:
		return c.fail(err)
	}
	body, err := json.Marshal(proofOf(owner, out))
	if err != nil {
		return c.fail(err)
	}
	c.out.Add(int64(len(body)))
	c.w.Header().Set("Content-Type", "application/json")
	_, err = c.w.Write(body)
	return err
}

// proofOf returns the API's form of how a proof ended.
func proofOf(owner host.Owner, out enforce.Outcome) *subresources.BottleProof {
	p := &subresources.BottleProof{
		TypeMeta:   metav1.TypeMeta{APIVersion: subresources.GroupVersion.String(), Kind: "BottleProof"},
		ObjectMeta: metav1.ObjectMeta{Namespace: owner.Namespace, Name: owner.Name, UID: types.UID(owner.UID)},
		StartTime:  metav1.NewTime(out.Start), FinishTime: metav1.NewTime(out.End),
		Status: metav1.ConditionFalse, Reason: out.Reason, Message: out.Message,
	}
	switch {
	case out.Proven:
		p.Status = metav1.ConditionTrue
	case v1alpha1.UnknownReasons[out.Reason]:
		p.Status = metav1.ConditionUnknown
	}
	for _, f := range out.Findings {
		p.Targets = append(p.Targets, subresources.ProofTarget(f))
	}
	return p
}
