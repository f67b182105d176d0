// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"slices"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/broker"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/jobs"
	"botbottle.dev/bottle-operator/internal/outcome"
)

// brokerStep waits for a Pod that was made for the present spec.bundle, and gives the
// built-in bundle the Bottle's authority and the values of its Secrets.
type brokerStep struct {
	broker   *broker.Broker
	runtimes Runtimes
	machines host.Machines
	starts   *jobs.Set[error]
	causes   outcome.Causes
	// upstreamCA are the authorities, in PEM, that bundles accept for upstreams beside
	// the public ones; nil for none.
	upstreamCA func() []byte
}

func (t *brokerStep) ensure(ctx context.Context, s *scope) (err error) {
	if err := t.checkPod(ctx, s); err != nil {
		return err
	}
	if desired.BundleImage(s.bottle) != "" || s.bundleImage != "" { // wanted, or kept until the machine is down
		return t.close(ctx, s)
	}
	if s.secretsDir, err = t.broker.Ensure(ctx, s.bottle); err != nil {
		return outcome.Map(err, t.causes.Bundle(ctx, s.runtime, s.owner, ""))
	}
	s.setCredentials(t.broker.Credentials(s.bottle))
	return s.folder.WriteUpstreamCA(t.upstreamCA()) // the bundle step publishes it with the rules
}

// checkPod waits for another Pod if the Bottle's was made for an earlier spec.bundle and no
// machine runs. The manager never replaces the Pod of a running machine.
func (t *brokerStep) checkPod(ctx context.Context, s *scope) error {
	s.ports, s.bundleImage = desired.BundlePorts(s.bottle), desired.BundleImage(s.bottle)
	s.podOutdated = s.runtime == bundleruntime.Pod && t.runtimes.BundleOf(s.owner.UID) != desired.BundleDigest(s.bottle)
	if !s.podOutdated {
		return nil
	}
	lives, err := t.machines.Lives(ctx, s.name())
	if err != nil {
		return err
	}
	if lives || t.starts.Running(s.owner.UID) {
		return s.keepBundle()
	}
	s.status.Bundle = &v1alpha1.BundleStatus{Name: s.name(), Runtime: ptr.To(s.runtime.Reported())}
	return &flow.Waiting{Reason: v1alpha1.ReasonPodOutdated, After: externalDelay,
		Message: "the Bottle's Pod was made for an earlier spec.bundle: the manager replaces it, and then the machine starts"}
}

// close takes everything away from a bundle that is down or not the built-in one.
func (t *brokerStep) close(ctx context.Context, s *scope) error {
	s.setCredentials(nil)
	return t.broker.Close(ctx, s.owner.UID)
}

// keepBundle keeps the image of a bundle that was made for an earlier spec, and of its ports
// those that the present spec has, too.
func (s *scope) keepBundle() error {
	present, err := s.folder.Wall()
	if err != nil || present == nil {
		return err
	}
	s.ports = slices.DeleteFunc(slices.Clone(s.ports), func(p int32) bool { return !slices.Contains(present.Spec.Ports, p) })
	s.bundleImage = ptr.Deref(present.BundleImage, s.bundleImage)
	return nil
}

func (s *scope) setCredentials(list []v1alpha1.CredentialStatus) {
	var egress v1alpha1.EgressStatus
	if s.status.Egress != nil {
		egress = *s.status.Egress
	}
	egress.Credentials = list
	s.status.Egress = agentstatus.Egress(egress)
}
