// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// BottleExecOptions are the query parameters of bottles/exec, which runs a command
// in the guest. The streams are those of pods/exec: SPDY, or WebSocket with the
// subprotocol v5.channel.k8s.io.
//
// +kubebuilder:object:root=true
type BottleExecOptions struct {
	metav1.TypeMeta `json:",inline"`

	// command is the argv; it is not run in a shell.
	Command []string `json:"command,omitempty"`
	// stdin, stdout and stderr name the streams that the client opens. With a TTY,
	// stderr must be false: it is part of stdout.
	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
	// tty gives the command a terminal.
	TTY bool `json:"tty,omitempty"`
	// purpose is Files if the command only copies files. The machine of a finished
	// Bottle is then started, without its workload; other commands are refused there.
	Purpose ExecPurpose `json:"purpose,omitempty"`
}

// ExecPurpose says what a command is for.
type ExecPurpose string

// PurposeFiles means that the command copies files.
const PurposeFiles ExecPurpose = "Files"

// BottleAttachOptions are the query parameters of bottles/attach, which connects to
// the workload: to its output, starting with the last 64 KiB at most, and, if
// spec.stdin is not Closed, to its input.
//
// +kubebuilder:object:root=true
type BottleAttachOptions struct {
	metav1.TypeMeta `json:",inline"`

	Stdin  bool `json:"stdin,omitempty"`
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
	// tty must be set exactly if spec.stdin is Terminal.
	TTY bool `json:"tty,omitempty"`
}

// LogSource says whose log is read.
type LogSource string

// Sources of logs.
const (
	// LogWorkload is the output of the workload. It is the default.
	LogWorkload LogSource = "Workload"
	// LogConsole is the guest's console.
	LogConsole LogSource = "Console"
	// LogBundle is the output of the bundle's container.
	LogBundle LogSource = "Bundle"
	// LogEgress is the default bundle's decisions, one JSON object per line.
	LogEgress LogSource = "Egress"
)

// LogFormat says how lines are sent.
type LogFormat string

// Formats of logs.
const (
	// LogText sends the lines as they were written, or with timestamps before them.
	LogText LogFormat = "Text"
	// LogCRI sends each line as kubelet keeps it: TIMESTAMP STREAM TAG TEXT, where
	// STREAM is stdout or stderr, and TAG is F, or P if the line goes on in the next one.
	// STREAM is system where the line is about the log itself: that output was dropped
	// because it came too fast, or because the log had become too large.
	LogCRI LogFormat = "CRI"
)

// BottleLogOptions are the query parameters of bottles/log, as those of pods/log.
//
// +kubebuilder:object:root=true
type BottleLogOptions struct {
	metav1.TypeMeta `json:",inline"`

	Source LogSource `json:"source,omitempty"`
	Format LogFormat `json:"format,omitempty"`
	// follow sends new lines until the Bottle has finished or is deleted.
	Follow bool `json:"follow,omitempty"`
	// previous selects the run of the workload, or of the bundle's container, before
	// the last one.
	Previous bool `json:"previous,omitempty"`
	// sinceSeconds and sinceTime exclude each other.
	SinceSeconds *int64       `json:"sinceSeconds,omitempty"`
	SinceTime    *metav1.Time `json:"sinceTime,omitempty"`
	// tailLines is the number of lines from the end.
	TailLines *int64 `json:"tailLines,omitempty"`
	// limitBytes is the number of bytes after which the log ends.
	LimitBytes *int64 `json:"limitBytes,omitempty"`
	// timestamps puts an RFC 3339 time before each line. Console lines have none.
	Timestamps bool `json:"timestamps,omitempty"`
}

// BottleAction is the result of bottles/restart and bottles/recreate, and is also
// what a client sends there. Its name is the Bottle's.
//
// +kubebuilder:object:root=true
type BottleAction struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// requestedAt is the value that the Bottle's annotation was set to.
	RequestedAt string `json:"requestedAt,omitempty"`
}

// BottleProof is the result of bottles/proof: what was just proven about the
// egress of the guest.
//
// +kubebuilder:object:root=true
type BottleProof struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// startTime and finishTime of the proof.
	StartTime  metav1.Time `json:"startTime,omitempty"`
	FinishTime metav1.Time `json:"finishTime,omitempty"`
	// status, reason and message are those of the condition EgressEnforced.
	Status  metav1.ConditionStatus `json:"status,omitempty"`
	Reason  string                 `json:"reason,omitempty"`
	Message string                 `json:"message,omitempty"`
	// targets are what the prober in the guest tried to reach, at most 64.
	Targets []ProofTarget `json:"targets,omitempty"`
}

// ProofTarget is one address that a proof tried to reach.
type ProofTarget struct {
	// address is IP:PORT, or the name of a check.
	Address string `json:"address,omitempty"`
	// protocol is TCP, UDP, ICMP or DNS.
	Protocol string `json:"protocol,omitempty"`
	// expected and observed are Reached or Refused. observed is what the node saw;
	// it is Unknown if it could not see the attempt.
	Expected string `json:"expected,omitempty"`
	Observed string `json:"observed,omitempty"`
	// by says what the judgement rests on, such as Canary, WallCounter, SmolvmDenial
	// or HostChecks.
	By string `json:"by,omitempty"`
}
