// SPDX-License-Identifier: Apache-2.0

package state

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"botbottle.dev/bottle-operator/internal/machinesize"
)

// Record holds what a machine was created with and what happened to it since: the
// part of a Bottle's history that neither smolvm nor the API server stores. It
// contains values of the environment only as salted hashes.
type Record struct {
	// Salt is the salt of the hashes. Each machine has a new one.
	Salt string `json:"salt"`
	// Env holds the hashes of the values in the Smolfile, by name.
	Env map[string]string `json:"env,omitempty"`
	// Secrets holds the hashes of the values that were passed by reference at the
	// last start, by name.
	Secrets map[string]string `json:"secrets,omitempty"`
	// Image is spec.image; "" is the node's default. Reference and Digest identify
	// the image that it resolved to; "" for a bare machine.
	Image     string `json:"image,omitempty"`
	Reference string `json:"reference,omitempty"`
	Digest    string `json:"digest,omitempty"`
	// Artifact is spec.artifact, zero for none. If it is set, Reference and Digest
	// describe the artifact.
	Artifact Artifact `json:"artifactSource,omitzero"`
	// Command is spec.command.
	Command []string `json:"command,omitempty"`
	// Size is spec.machine.
	Size machinesize.Size `json:"machine,omitzero"`
	// Created is the size that the machine was created with; zero if an earlier release
	// created it.
	Created machinesize.Size `json:"created,omitzero"`
	// BundleIP is the only address that the machine's policy allows.
	BundleIP string `json:"bundleIP"`

	// Policy is the result of comparing the policy that smolvm stored with
	// BundleIP at the last start.
	Policy string `json:"policy,omitempty"`
	// Proof is the last proof of the machine's walls, while it is valid.
	Proof *Proof `json:"proof,omitempty"`

	// CAPath is spec.bundle.caPath; "" means that the machine lacks that mount.
	CAPath string `json:"caPath,omitempty"`

	// Trusts: the guest was told to trust the authority of its Bottle. Placeholders are the
	// variables that it has in place of credentials.
	Trusts       bool     `json:"trustsBundle,omitempty"`
	Placeholders []string `json:"placeholders,omitempty"`

	// RestartedAt and RecreatedAt are the values of the annotations that were
	// already acted on.
	RestartedAt string `json:"restartedAt,omitempty"`
	RecreatedAt string `json:"recreatedAt,omitempty"`

	// Pod is the UID of the Bottle's Pod when the machine's last start was requested; "" if it
	// had none. Pod.Started says in which one the machine was then started.
	Pod string `json:"pod,omitempty"`
	// BundleMemory is the share of the Pod's memory that is left to the bundle, in bytes.
	BundleMemory int64 `json:"bundleMemory,omitempty"`

	// Run is the VMM that was last observed running and not yet observed to have
	// ended. A requested stop clears it in advance, so a machine that is down and
	// has a Run was lost.
	Run *Run `json:"run,omitempty"`
	// FirstRun is when the Bottle's machine first ran.
	FirstRun time.Time `json:"firstRun,omitzero"`
	// Restarts counts the starts after the first that nobody requested.
	Restarts int32 `json:"restarts,omitempty"`
	// LastLoss is the last time that the machine ended without a request.
	LastLoss *Loss `json:"lastLoss,omitempty"`

	// BootFailures counts the failed boots since the machine last ran.
	// LastBootFailure is the time of the last one and BootError its text.
	BootFailures    int       `json:"bootFailures,omitempty"`
	LastBootFailure time.Time `json:"lastBootFailure,omitzero"`
	BootError       string    `json:"bootError,omitempty"`
	// BootReason is the condition's reason for that failure; "" is BootFailed.
	BootReason string `json:"bootReason,omitempty"`
	// Breach is the reason why the guard killed the machine since its last start;
	// "" if it did not.
	Breach string `json:"breach,omitempty"`
	// Workload is the state of the workload.
	Workload Workload `json:"workload,omitzero"`
}

// Proof is the result of a proof.
type Proof struct {
	// Key identifies the VMM, the wall and the bundle that were proven.
	Key string `json:"key"`
	// Demand is the value of the annotation that requested the proof.
	Demand string `json:"asked,omitempty"`
	// Reason and Message are those of the condition.
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Run identifies one VMM process of a machine.
type Run struct {
	PID       int       `json:"pid"`
	StartTime time.Time `json:"startTime"`
}

// Loss records that a machine ended without a request.
type Loss struct {
	Time  time.Time `json:"time"`
	Cause string    `json:"cause"`
}

// NewSalt returns a new salt for a Record.
func NewSalt() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, according to crypto/rand
	return hex.EncodeToString(b)
}

// Hashes returns the salted hashes of values, by name.
func Hashes(salt string, values map[string]string) map[string]string {
	out := make(map[string]string, len(values))
	for name, value := range values {
		mac := hmac.New(sha256.New, []byte(salt))
		mac.Write([]byte(value))
		out[name] = hex.EncodeToString(mac.Sum(nil))
	}
	return out
}

// ErrBadRecord means that a stored file cannot be decoded.
var ErrBadRecord = errors.New("invalid record")

// Record reads the record. It returns nil, nil if there is none.
func (f Folder) Record() (*Record, error) {
	return readJSON[Record](f, recordFile)
}

// WriteRecord stores the record.
func (f Folder) WriteRecord(r *Record) error {
	return f.writeJSON(recordFile, r)
}
