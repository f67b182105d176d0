// SPDX-License-Identifier: Apache-2.0

package state

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"
)

// Record is what a machine was created with and what became of it: the part
// of a Bottle's past that neither smolvm nor the API server keeps. Values of
// the environment are in it only as salted hashes.
type Record struct {
	// Salt of the hashes, new for each machine.
	Salt string `json:"salt"`
	// Env are the hashes of the values in the Smolfile, by name.
	Env map[string]string `json:"env,omitempty"`
	// Secrets are the hashes of the values given by reference, by name, as of
	// the last start.
	Secrets map[string]string `json:"secrets,omitempty"`
	// Image is spec.image; "" is the node's default. Reference and Digest are
	// what that came to; "" for a bare machine.
	Image     string `json:"image,omitempty"`
	Reference string `json:"reference,omitempty"`
	Digest    string `json:"digest,omitempty"`
	// Artifact is spec.artifact, zero for none; Reference and Digest are then
	// the artifact's.
	Artifact Artifact `json:"artifactSource,omitzero"`
	// Command is spec.command.
	Command []string `json:"command,omitempty"`
	// Size is spec.machine.
	Size Size `json:"machine,omitzero"`
	// BundleIP is the one address that the machine's policy allows.
	BundleIP string `json:"bundleIP"`

	// Policy is how what smolvm persisted compared with that at the last start.
	Policy string `json:"policy,omitempty"`
	// Proof is the last proof of the machine's walls, while it stands.
	Proof *Proof `json:"proof,omitempty"`

	// CAPath is spec.bundle.caPath; "" is a machine without that mount.
	CAPath string `json:"caPath,omitempty"`

	// RestartedAt and RecreatedAt are the annotations already acted on.
	RestartedAt string `json:"restartedAt,omitempty"`
	RecreatedAt string `json:"recreatedAt,omitempty"`

	// Run is the VMM that was last seen running and not yet seen ended. A
	// stop that was asked for clears it beforehand, so that a machine that is
	// down with a Run was lost.
	Run *Run `json:"run,omitempty"`
	// FirstRun is when the Bottle's machine first ran.
	FirstRun time.Time `json:"firstRun,omitzero"`
	// Restarts counts unasked starts after the first.
	Restarts int32 `json:"restarts,omitempty"`
	// LastLoss is the last unasked end.
	LastLoss *Loss `json:"lastLoss,omitempty"`

	// BootFailures counts failed boots since the machine last ran,
	// LastBootFailure is the time of the last and BootError its text.
	BootFailures    int       `json:"bootFailures,omitempty"`
	LastBootFailure time.Time `json:"lastBootFailure,omitzero"`
	BootError       string    `json:"bootError,omitempty"`
	// BootReason is the condition's reason for it; "" is BootFailed.
	BootReason string `json:"bootReason,omitempty"`
	// Breach is why the guard killed the machine since its last start; "" if it
	// did not.
	Breach string `json:"breach,omitempty"`
}

// Proof is what a proof came to, and what it was about.
type Proof struct {
	// Key names the machine's life, its wall and its bundle.
	Key string `json:"key"`
	// Asked is the annotation that it answers.
	Asked string `json:"asked,omitempty"`
	// Reason and Message are the condition's.
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Run is one life of a machine's VMM.
type Run struct {
	PID       int       `json:"pid"`
	StartTime time.Time `json:"startTime"`
}

// Loss is one unasked end of a machine.
type Loss struct {
	Time  time.Time `json:"time"`
	Cause string    `json:"cause"`
}

// NewSalt is a fresh salt for a Record.
func NewSalt() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, says crypto/rand
	return hex.EncodeToString(b)
}

// Hashes are the salted hashes of values, by name.
func Hashes(salt string, values map[string]string) map[string]string {
	out := make(map[string]string, len(values))
	for name, value := range values {
		mac := hmac.New(sha256.New, []byte(salt))
		mac.Write([]byte(value))
		out[name] = hex.EncodeToString(mac.Sum(nil))
	}
	return out
}

// ErrBadRecord is what a record that cannot be understood is.
var ErrBadRecord = errors.New("not a record")

// Record reads the record; nil without an error when there is none.
func (f Folder) Record() (*Record, error) {
	return readJSON[Record](f, recordFile)
}

// WriteRecord keeps the record.
func (f Folder) WriteRecord(r *Record) error {
	return f.writeJSON(recordFile, r)
}
