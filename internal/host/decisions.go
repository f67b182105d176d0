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
	// Rule is the rule that let a request to an opened host through, or that a refusal is
	// about: its host, as egress.Rule writes it. It is "" if there is none.
	Rule string
	// Method is one of egress.Methods or egress.OtherMethod for a request to an opened
	// host, and "" for any other.
	Method string
	// Credential is what the rule added, as SECRET/KEY; "" if it added none.
	Credential string
	// Secret, Key and Place say which Secret the request contained, and where, as in
	// egress.Refusal; "" if it contained none. They are printable ASCII of at most 253, 253
	// and 48 characters.
	Secret, Key, Place string
	// BytesIn is the length of the body of the request, and BytesOut that of the answer.
	// They are totals if LeftOut is not 0.
	BytesIn, BytesOut uint64
	// LeftOut is not 0 if this is not one decision but stands for that many
	// decisions with this verdict, which the bundle left out of its log because
	// there were too many. Such an entry has no Host, but may have a Rule.
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
