// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// steps are the conditions that lead to a running machine, in their order.
var steps = []string{
	v1alpha1.ConditionScheduled, v1alpha1.ConditionNetworkReady, v1alpha1.ConditionSmolfileReady,
	v1alpha1.ConditionBundleReady, v1alpha1.ConditionMachineReady,
}

// finished reports whether the workload has ended for good.
func finished(b *v1alpha1.Bottle) bool {
	return meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionFinished)
}

// requireMachine returns why nobody can work in the Bottle's machine now, and what
// to do about it, or nil. A user may work in a machine whose egress has not been
// proven: its wall stands before it starts, and nothing that a user does opens it.
func requireMachine(b *v1alpha1.Bottle) error {
	switch {
	case b.DeletionTimestamp != nil:
		return conflict(b, "it is being deleted")
	case finished(b):
		return conflict(b, fmt.Sprintf("its workload has ended for good, and its machine is stopped (%s). Read its logs, copy its files with cp, or run it again with restart",
			conditionText(b, v1alpha1.ConditionFinished)))
	case b.Spec.DesiredState == v1alpha1.DesiredStateStopped:
		return conflict(b, "it is stopped, because spec.desiredState is Stopped. Set it to Running first")
	case meta.IsStatusConditionTrue(b.Status.Conditions, v1alpha1.ConditionMachineReady):
		return nil
	}
	for _, step := range steps {
		if !meta.IsStatusConditionTrue(b.Status.Conditions, step) {
			return conflict(b, "its machine does not run yet: "+conditionText(b, step))
		}
	}
	return nil
}
