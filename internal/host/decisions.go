// SPDX-License-Identifier: Apache-2.0

package host

import "time"

// Decision is the built-in bundle's verdict on one request. All fields but Time
// were written by the bundle's container, and Host was chosen by a guest: it is
// escaped, and may only be shown as text.
type Decision struct {
	// Time is when docker received it.
	Time time.Time
	// Verdict is one of the Verdict constants.
	Verdict string
	// Host has at most 64 characters of printable ASCII and no spaces. It is
	// empty if the request named no host.
	Host string
	Port uint16
	// Reason has at most 300 characters of printable ASCII.
	Reason string
	// Cause and Address are the fields of the egress.Refusal that the bundle logged, or
	// empty. Each has at most 48 characters of printable ASCII.
	Cause, Address string
	// Closed is the limit of the platform that closes the destination, as
	// egress.ClosedBy; "" if none does.
	Closed string
	// LeftOut is not 0 if this is not one decision but stands for that many
	// decisions with this verdict, which the bundle left out of its log because
	// there were too many. Such an entry has no Host.
	LeftOut uint32
}

// The verdicts of a bundle.
const (
	// VerdictAllow: a rule allows the request.
	VerdictAllow = "allow"
	// VerdictDeny: no rule allows it, or the address may not be reached.
	VerdictDeny = "deny"
	// VerdictFail: a rule allows it, but the host does not resolve or does not
	// answer.
	VerdictFail = "fail"
)
