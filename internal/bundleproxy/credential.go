// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"net/http"
	"slices"
	"strings"
)

// removeHeader removes a header in every spelling that a server may take for it: in any
// case, and with underscores for hyphens.
func removeHeader(h http.Header, name string) {
	want := foldName(name)
	for key := range h {
		if foldName(key) == want {
			delete(h, key)
		}
	}
}

func foldName(name string) string { return strings.ReplaceAll(strings.ToLower(name), "_", "-") }

// limitResponse changes a request so that the bundle can read the response: it asks for
// all of it, in no coding or in gzip.
func limitResponse(h http.Header) {
	coding := "identity"
	for _, value := range h.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(value, ",") {
			name, weight, _ := strings.Cut(part, ";")
			weight = strings.ReplaceAll(strings.TrimSpace(weight), " ", "")
			if strings.EqualFold(strings.TrimSpace(name), "gzip") && strings.Trim(strings.TrimPrefix(weight, "q="), "0.") != "" || weight == "" && strings.EqualFold(strings.TrimSpace(name), "gzip") {
				coding = "gzip"
			}
		}
	}
	h.Set("Accept-Encoding", coding)
	for _, name := range []string{"Range", "If-Range"} {
		removeHeader(h, name)
	}
}

// refusedTrailers are never sent as trailers: a server that treats trailers as headers
// would take them for something that the bundle decided on.
var refusedTrailers = map[string]bool{
	"authorization": true, "content-length": true, "cookie": true, "host": true, "trailer": true, "transfer-encoding": true,
}

// mayTrail reports whether a request may have a trailer of this name.
func (x *exchange) mayTrail(name string) bool {
	folded := foldName(name)
	if refusedTrailers[folded] || slices.Contains(methodOverrides, folded) || slices.Contains(pathOverrides, folded) || x.header != nil && folded == foldName(x.header.name) {
		return false
	}
	for _, hop := range hopHeaders {
		if strings.EqualFold(hop, folded) {
			return false
		}
	}
	return true
}
