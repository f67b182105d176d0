// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/probe"
	"botbottle.dev/bottle-operator/internal/state"
)

// checkPolicy reads back, before a start, what smolvm persisted of the one
// allowed address: releases have dropped it without a word.
func (r *Reconciler) checkPolicy(ctx context.Context, s *scope) error {
	known, note, err := r.readPolicy(ctx, s)
	if err != nil {
		return err
	}
	if known != probe.PolicyExact && r.RequireSmolvmPolicy {
		return &flow.Waiting{Reason: v1alpha1.ReasonPolicyNotPersisted, After: forSomebody,
			Message: note + ": the machine is not started, for the agent runs with --require-smolvm-policy"}
	}
	rec := r.runningRecord(s)
	rec.Policy = string(known)
	return s.setRecord(rec)
}

// readPolicy says how the persisted policy compares, with the words for it
// where it does not.
func (r *Reconciler) readPolicy(ctx context.Context, s *scope) (probe.Policy, string, error) {
	p, err := r.Machines.Policy(ctx, s.name())
	switch {
	case errors.Is(err, host.ErrUnsupported):
		return probe.PolicyUnknown, "what smolvm persisted of the machine's policy cannot be read: " + err.Error(), nil
	case err != nil:
		return "", "", err
	}
	want := s.triple.BundleIP.String() + "/32"
	if s.record != nil && s.record.Artifact != (state.Artifact{}) && !s.version.ArtifactPolicy && len(p.AllowedCIDRs) == 0 {
		return probe.PolicyDropped, fmt.Sprintf("smolvm %s drops the policy of a machine that is made of an artifact, and 1.8.0 and newer keep it", s.version.Version), nil
	}
	if len(p.AllowedCIDRs) == 1 && p.AllowedCIDRs[0] == want && len(p.Extra) == 0 {
		return probe.PolicyExact, "", nil
	}
	return probe.PolicyDiffers, fmt.Sprintf("smolvm persisted the policy [%s] where it was asked for [%s]",
		strings.Join(append(p.AllowedCIDRs, p.Extra...), " "), want), nil
}
