// SPDX-License-Identifier: Apache-2.0

package probe

import "strings"

const (
	nonceLength = 32 // characters of a plan's nonce
	// maxNonce bounds the length of a nonce that a canary accepts.
	maxNonce = 64
)

// Greeting returns a canary's answer to a nonce, over TCP and UDP. Only the
// sender of the nonce can expect it, so nothing else is mistaken for a canary.
func Greeting(nonce string) string { return "bottle-canary " + nonce + "\n" }

// ParseNonce returns the nonce on the first line of the data that a canary
// received: at most 64 characters of [0-9a-f], or "" for anything else.
func ParseNonce(data []byte) string {
	line, _, _ := strings.Cut(string(data[:min(len(data), maxNonce+2)]), "\n")
	line = strings.TrimSuffix(line, "\r")
	if len(line) > maxNonce || !isHex(line) {
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
