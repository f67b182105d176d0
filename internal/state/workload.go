// SPDX-License-Identifier: Apache-2.0

package state

import "time"

// Workload is what the agent must know about a Bottle's workload after a restart. It is
// zero for a machine whose workload is not supervised, because it has none, because
// smolvm is too old, or because an earlier release created it.
type Workload struct {
	// Out is the folder for reports that the machine was created with. "" means that
	// the workload is not supervised.
	Out string `json:"out,omitempty"`
	// Checked: it was known at the creation of the machine how to supervise a workload. An
	// earlier release did not know.
	Checked bool `json:"checked,omitempty"`
	// Start identifies the last start of the machine: only a report that names it
	// counts. Stopping: a stop was requested since, so that the end of the workload
	// means nothing.
	Start    string `json:"start,omitempty"`
	Stopping bool   `json:"stopping,omitempty"`
	// Idle: this start does not run the workload, or does not run it yet.
	Idle bool `json:"idle,omitempty"`
	// Stdin is spec.stdin at this start.
	Stdin string `json:"stdin,omitempty"`
	// Restarts is the number of restarts of the workload before this start.
	Restarts int32 `json:"restarts,omitempty"`
	// OutputLost: it was reported that output of this start was lost.
	OutputLost bool `json:"outputLost,omitempty"`

	// Began is when the Bottle began to run: status.startTime.
	Began time.Time `json:"began,omitzero"`
	// Ending says why the machine is being stopped for good; nil if it is not.
	Ending *End `json:"ending,omitempty"`
	// Finished says why the Bottle has finished; nil if it has not. Its machine is down.
	Finished *End `json:"finished,omitempty"`
	// Released: the Bottle has finished once, so that its machine may start only while
	// something is booked for it.
	Released bool `json:"released,omitempty"`

	// FilesAt is the value of the annotation for which files were last opened. FilesSince
	// is when they were last opened, and FilesReady when the machine was proven then; both
	// are zero while files are closed.
	FilesAt    string    `json:"filesAt,omitempty"`
	FilesSince time.Time `json:"filesSince,omitzero"`
	FilesReady time.Time `json:"filesReady,omitzero"`
}

// End is how a Bottle ends.
type End struct {
	// Reason and Message are those of the condition Finished.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Time is when the agent noticed it.
	Time time.Time `json:"time"`
}
