// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"errors"

	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/controllers/bottle"
	"botbottle.dev/bottle-operator/internal/access"
)

// addAccess adds the server for the manager, unless it is disabled, and what keeps the
// logs that it serves bounded.
func (o *AgentOptions) addAccess(mgr ctrl.Manager, p parts, r *bottle.Reconciler, sessions *access.Sessions) error {
	bottles := access.NodeBottles{Client: mgr.GetClient(), State: p.dir, Node: o.NodeName, Cluster: p.cluster}
	log := mgr.GetLogger().WithName("access")
	bounds := mgr.Add(access.LogBounds{Bottles: bottles, Machines: r.Machines, Log: log})
	if !o.Access.enabled() {
		return bounds
	}
	keeper, err := o.accessCertificate(mgr)
	if err != nil {
		return err
	}
	return errors.Join(bounds, mgr.Add(access.New(access.Options{
		Address: o.Access.Address, TLS: keeper.ServerConfig(),
		Bottles: bottles, Machines: r.Machines, Bundles: r.Bundles, Prover: p.enforcer, Sessions: sessions, Log: log,
	})))
}
