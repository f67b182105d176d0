// SPDX-License-Identifier: Apache-2.0

package probe

import "strings"

const (
	nonceLength = 32 // characters of a plan's nonce
	// maxTold is how long a nonce may be that somebody brings to a canary.
	maxTold = 64
)

// Greeting is what a canary answers to a nonce, over TCP and UDP. Only who
// sent the nonce can expect it, so that nothing else is taken for a canary.
func Greeting(nonce string) string { return "bottle-canary " + nonce + "\n" }

// ParseNonce is the nonce that what came to a canary begins with, up to a line's
// end: at most 64 characters of [0-9a-f], "" for anything else.
func ParseNonce(data []byte) string {
	line, _, _ := strings.Cut(string(data[:min(len(data), maxTold+2)]), "\n")
	line = strings.TrimSuffix(line, "\r")
	if len(line) > maxTold || !isHex(line) {
		return ""
	}
	return line
}

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
