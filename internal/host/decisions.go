// SPDX-License-Identifier: Apache-2.0

package host

import "time"

// Decision is what the built-in bundle made of one request. All of it but the
// time is what the bundle's container said, and Host is what a guest asked
// for: escaped, and never to be used as anything but a text to show.
type Decision struct {
	// Time is when docker got to know of it.
	Time time.Time
	// Verdict is one of the Verdict constants.
	Verdict string
	// Host has at most 64 characters of printable ASCII and no spaces; it is
	// empty where a request named none.
	Host string
	Port uint16
	// Reason has at most 300 characters of printable ASCII.
	Reason string
}

// The verdicts of a bundle.
const (
	// VerdictAllow: a rule lets the request through.
	VerdictAllow = "allow"
	// VerdictDeny: no rule does, or the address may not be reached.
	VerdictDeny = "deny"
	// VerdictFail: a rule lets it through, but the host does not resolve or
	// does not answer.
	VerdictFail = "fail"
)
