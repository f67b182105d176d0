// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/broker"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/supervise"
)

// brokerStep gives the built-in bundle the Bottle's authority and the values of its
// Secrets.
type brokerStep struct {
	broker *broker.Broker
	// upstreamCA are the authorities, in PEM, that bundles accept for upstreams beside
	// the public ones; nil for none.
	upstreamCA func() []byte
}

func (t *brokerStep) ensure(ctx context.Context, s *scope) (err error) {
	if desired.BundleImage(s.bottle) != "" {
		return t.close(ctx, s)
	}
	if s.secretsDir, err = t.broker.Ensure(ctx, s.bottle); err != nil {
		return err
	}
	s.setCredentials(t.broker.Credentials(s.bottle))
	return s.folder.WriteUpstreamCA(t.upstreamCA())
}

// close takes everything away from a bundle that is down or not the built-in one.
func (t *brokerStep) close(ctx context.Context, s *scope) error {
	s.setCredentials(nil)
	return t.broker.Close(ctx, s.owner.UID)
}

func (s *scope) setCredentials(list []v1alpha1.CredentialStatus) {
	var egress v1alpha1.EgressStatus
	if s.status.Egress != nil {
		egress = *s.status.Egress
	}
	egress.Credentials = list
	s.status.Egress = agentstatus.Egress(egress)
}

// openedMount mounts what a guest without a supervisor trusts.
func (t *workloadStep) openedMount(ctx context.Context, s *scope) (err error) {
	if s.exchange.Out == "" && len(desired.OpenRules(s.bottle)) > 0 {
		s.trustDir, err = t.exchanges.WriteTrust(ctx, s.owner.UID, nil)
	}
	return err
}

// trustTarget is where it is in the guest.
const trustTarget = supervise.In + "/" + supervise.TrustDir
