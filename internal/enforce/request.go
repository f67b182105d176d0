// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Request is what a user can change so that a Bottle starts again after a leak:
// the spec, and the annotation that requests a proof.
type Request struct {
	Generation int64
	// Prove is the value of the Bottle's prove annotation. It may be of any
	// length.
	Prove string
	// BundleImage is the image of the running bundle, "" for the built-in one. It
	// is not part of the request's identity.
	BundleImage string
}

// String identifies the request in records and in the status.
func (r Request) String() string {
	prove := r.Prove
	if len(prove) > 128 {
		sum := sha256.Sum256([]byte(prove))
		prove = hex.EncodeToString(sum[:])
	}
	return fmt.Sprintf("generation %d, prove %q", r.Generation, prove)
}
