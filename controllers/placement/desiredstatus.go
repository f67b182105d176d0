// SPDX-License-Identifier: Apache-2.0

package placement

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// desiredStatus is the manager's part of a Bottle's status.
type desiredStatus struct {
	nodeName  string
	resources *v1alpha1.ResourcesStatus
	// asserted are the conditions to set. The time and generation are filled in
	// when they are written.
	asserted []metav1.Condition
}

// justPlaced is the status that hands the Bottle over to the agent. It includes
// Ready, so that clients that wait for Ready always find the condition.
func justPlaced(f facts, node string) *desiredStatus {
	resources := f.desired.resources
	return &desiredStatus{nodeName: node, resources: &resources, asserted: []metav1.Condition{
		{Type: v1alpha1.ConditionScheduled, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonScheduled, Message: "kube-scheduler chose node " + node},
		{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonProgressing, Message: "waiting for the agent on node " + node},
	}}
}

// unplaced is the status of a Bottle without a node. Ready has the same status,
// reason and message as Scheduled.
func unplaced(f facts, reason, message string) *desiredStatus {
	resources := f.desired.resources
	s := &desiredStatus{resources: &resources}
	for _, t := range []string{v1alpha1.ConditionScheduled, v1alpha1.ConditionReady} {
		s.asserted = append(s.asserted, metav1.Condition{Type: t, Status: metav1.ConditionFalse, Reason: reason, Message: message})
	}
	return s
}

// retained is the status of a Bottle on its node. The node and the booked
// resources stay as they are. While the agent is lost, Ready and EgressEnforced
// are Unknown.
func retained(f facts, on string) *desiredStatus {
	s := &desiredStatus{nodeName: on, resources: f.bottle.Status.Resources}
	if s.resources == nil && !finished(f.bottle) {
		resources := f.desired.resources
		s.resources = &resources
	}
	if !f.home.agentLost {
		return s
	}
	message := fmt.Sprintf("the agent on node %s stopped renewing its Lease: check the node, and the agent on it (its Pod of the DaemonSet bottle-agent, or bottle-agent.service)", on)
	for _, t := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionEgressEnforced} {
		s.asserted = append(s.asserted, metav1.Condition{Type: t, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonAgentLost, Message: message})
	}
	return s
}
