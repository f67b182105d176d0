// SPDX-License-Identifier: Apache-2.0

package cabundle

import (
	"bytes"
	"encoding/pem"
	"sync"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// WithPublicRoots returns a file that Check accepted, followed by the public
// authorities that it lacks. Most programs that are told of the file trust nothing
// else, and a guest's other TLS connections are tunnelled to public hosts.
//
// The authorities are Mozilla's, from the module golang.org/x/crypto/x509roots: the
// guest's image may have none, and those of the node may include private ones that
// the guest should not trust. Those that Mozilla trusts only for certificates issued
// before some date are left out, because a PEM file cannot say so.
func WithPublicRoots(data []byte) []byte {
	has := map[string]bool{}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		has[string(block.Bytes)] = true
	}
	out := bytes.NewBuffer(bytes.Clone(data))
	if !bytes.HasSuffix(data, []byte("\n")) {
		out.WriteByte('\n')
	}
	for _, root := range publicRoots() {
		if !has[root.der] {
			out.Write(root.pem)
		}
	}
	return out.Bytes()
}

type root struct {
	der string
	pem []byte
}

// publicRoots are always in the same order: a file that is written again must not
// differ.
var publicRoots = sync.OnceValue(func() (roots []root) {
	for r := range bundle.Roots() {
		if r.Constraint == nil {
			roots = append(roots, root{string(r.Certificate), pem.EncodeToMemory(&pem.Block{Type: certificate, Bytes: r.Certificate})})
		}
	}
	return roots
})
