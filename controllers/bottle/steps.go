// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
)

// step is one of a pass over a Bottle.
type step = flow.Step[*scope]

// converge are the steps towards a running Bottle. What the pass found out is
// written to the status after the last of them that was reached.
func (r *Reconciler) converge() []step {
	return []step{
		{Name: "adopt", Do: r.adopt},
		{Name: "network", Condition: v1alpha1.ConditionNetworkReady, Do: r.ensureNetwork},
		{Name: "smolfile", Condition: v1alpha1.ConditionSmolfileReady, Do: r.ensureSmolfile},
		{Name: "bundle", Condition: v1alpha1.ConditionBundleReady, Do: r.ensureBundle},
		{Name: "image", Condition: v1alpha1.ConditionMachineReady, Do: r.ensureImage},
		{Name: "wall", Condition: v1alpha1.ConditionEgressEnforced, Do: r.ensureWall},
		{Name: "machine", Condition: v1alpha1.ConditionMachineReady, Do: r.ensureMachine},
		{Name: "proof", Condition: v1alpha1.ConditionEgressEnforced, Do: r.ensureProof},
	}
}

// halt are the steps towards a Bottle that is stopped as asked. The machine
// comes first, so that nothing that is wrong elsewhere keeps it running.
func (r *Reconciler) halt() []step {
	return []step{
		{Name: "adopt", Do: r.adopt},
		{Name: "machine", Condition: v1alpha1.ConditionMachineReady, Do: r.ensureMachineDown},
		{Name: "bundle", Condition: v1alpha1.ConditionBundleReady, Do: r.ensureBundleDown},
		{Name: "network", Condition: v1alpha1.ConditionNetworkReady, Do: r.ensureNetwork},
		{Name: "smolfile", Condition: v1alpha1.ConditionSmolfileReady, Do: r.ensureSmolfile},
	}
}

// teardown are the steps towards a node without the Bottle, the exact reverse
// of converge. They need its identity only.
func (r *Reconciler) teardown() []step {
	return []step{
		{Name: "machine", Do: r.deleteMachine},
		{Name: "wall", Do: r.deleteWall},
		{Name: "bundle", Do: r.deleteBundle},
		{Name: "network", Do: r.deleteNetwork},
		{Name: "folder", Do: r.deleteFolder},
	}
}
