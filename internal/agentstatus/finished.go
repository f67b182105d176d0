// SPDX-License-Identifier: Apache-2.0

package agentstatus

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/flow"
)

const (
	messageFinished = "finished; the machine is stopped, and its disk, logs and files stay on the node until the Bottle is deleted"
	messageCopying  = "finished; the machine runs again without its workload, so that files can be copied, and its disk, logs and files stay on the node until the Bottle is deleted"
	messageAgain    = "; annotate the Bottle with botbottle.dev/restartedAt to run it again"
	messageFiles    = "the machine runs without its workload, so that files can be copied; it is stopped a minute after the last copy"
)

// down returns the reason and the message of the conditions of a machine that is to be
// down; "" if it is to run.
func (c *computed) down() (reason, message string) {
	switch {
	case c.Finished != nil && !c.FilesOpen:
		return c.Finished.Reason, messageFinished
	case desired.Stopped(c.Bottle) && c.Finished == nil:
		return v1alpha1.ReasonStopped, messageStopped
	}
	return "", ""
}

// isDown reports whether the machine is to be down and was observed to be.
func (c *computed) isDown() bool {
	reason, _ := c.down()
	return reason != "" && c.outcomeOf(v1alpha1.ConditionMachineReady).Kind == flow.KindDone
}

// failed reports whether the Bottle has finished in a way that is a failure.
func (c *computed) failed() bool {
	return c.Finished != nil && c.Finished.Reason != v1alpha1.ReasonCompleted
}

// completed returns the message of Ready for a Bottle that has finished as it should.
func (c *computed) completed() string {
	if c.FilesOpen {
		return messageCopying
	}
	return messageFinished
}

// finished sets Finished and FilesOpen, which are present only while they are true.
func (c *computed) finished() {
	if c.Finished == nil {
		return
	}
	c.set(v1alpha1.ConditionFinished, metav1.ConditionTrue, c.Finished.Reason, Bounded(c.Finished.Message))
	// A Bottle may have run again since the last report.
	c.list[len(c.list)-1].LastTransitionTime = metav1.NewTime(c.Finished.Time).Rfc3339Copy()
	if c.FilesOpen {
		c.set(v1alpha1.ConditionFilesOpen, metav1.ConditionTrue, v1alpha1.ReasonCopying, messageFiles)
	}
}
