// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"errors"
	"fmt"
	"net/netip"

	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/egresslimit"
)

// egressLimits returns the platform's limits on egress rules.
func (o *AgentOptions) egressLimits() (*egresslimit.Source, error) {
	pool, err := o.pool()
	if err != nil {
		return nil, err
	}
	closed, err := o.egressClosed()
	if err != nil {
		return nil, err
	}
	ceiling, err := o.egressCeiling()
	if err != nil {
		return nil, err
	}
	return egresslimit.New(egresslimit.Options{
		Pool: pool.Prefix(), Closed: closed, Ceiling: ceiling,
		Addresses: egresslimit.Addresses, Watch: egresslimit.Watch,
		Clock: clock.RealClock{}, Log: ctrl.Log.WithName("limits"),
	})
}

func (o *AgentOptions) egressClosed() ([]netip.Prefix, error) {
	var out []netip.Prefix
	var errs []error
	for _, text := range o.EgressClosed {
		network, err := egress.ParseNetwork(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--egress-closed %q: %w", text, err))
		}
		out = append(out, network)
	}
	return out, errors.Join(errs...)
}

// egressCeiling returns nil if there is no ceiling.
func (o *AgentOptions) egressCeiling() (*egress.Set, error) {
	if len(o.EgressCeiling) == 0 {
		return nil, nil
	}
	ceiling, err := egress.ParseSet(o.EgressCeiling)
	if err != nil {
		return nil, fmt.Errorf("--egress-ceiling: %w", err)
	}
	return &ceiling, nil
}
