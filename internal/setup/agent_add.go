// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"fmt"
	"net/netip"

	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"botbottle.dev/bottle-operator/controllers/bottle"
	"botbottle.dev/bottle-operator/controllers/node"
	"botbottle.dev/bottle-operator/controllers/sweep"
	"botbottle.dev/bottle-operator/internal/inventory"
)

// addNode adds the controller and runnables for the agent's own Node to mgr. The
// agent's Lease is in the namespace. addresses is called with the addresses that
// the Node lists.
func (o *AgentOptions) addNode(mgr ctrl.Manager, facts *node.Facts, namespace string, addresses func([]netip.Addr)) error {
	r := node.New(node.Options{Client: mgr.GetClient(), Facts: facts, Node: o.NodeName, MaxBottles: o.MaxBottles, Addresses: addresses})
	if err := r.SetupWithManager(mgr); err != nil {
		return err
	}
	direct, err := client.New(mgr.GetConfig(), client.Options{HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return fmt.Errorf("client of the Lease: %w", err)
	}
	served, err := o.Access.advertised()
	if err != nil {
		return err
	}
	lease := &node.Lease{Client: direct, Namespace: namespace, Node: o.NodeName, Clock: clock.RealClock{}, Access: served}
	for _, runnable := range []manager.Runnable{facts, lease} {
		if err := mgr.Add(runnable); err != nil {
			return err
		}
	}
	return nil
}

// add adds the Bottle controller and the sweep to mgr.
func (o *AgentOptions) add(mgr ctrl.Manager, r *bottle.Reconciler) error {
	if err := r.SetupWithManager(mgr); err != nil {
		return err
	}
	return o.addSweep(mgr, r)
}

func (o *AgentOptions) addSweep(mgr ctrl.Manager, r *bottle.Reconciler) error {
	counts, err := sweep.NewMetrics(metrics.Registry)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	return mgr.Add(sweep.New(sweep.Options{
		Node: r.Node, Cluster: r.Cluster, Live: mgr.GetAPIReader(), Recorder: r.Recorder, Teardown: r,
		Inventory: inventory.Sources{Networks: r.Networks, Bundles: r.Bundles, Walls: r.Walls, Folders: r.State},
		Informers: mgr.GetCache(), Clock: r.Clock, Grace: o.OrphanGracePeriod, Mode: sweep.Mode(o.OrphanMode), Metrics: counts,
	}))
}
