// SPDX-License-Identifier: Apache-2.0

// Package probe is the proof that a guest reaches its bundle and nothing else:
// what is tried (Plan), what the prober in the guest answers (Report), what
// the node saw meanwhile (Evidence), and what follows from both (Judge). It is
// pure: it opens no connection, and knows no smolvm, docker or cluster. The
// guest is taken for a liar: its word alone never makes a Verdict Proven.
package probe

import (
	"fmt"
	"net/netip"
	"time"
)

// Kind says what a target is, in the words that a person reads.
type Kind string

// Kinds of targets.
const (
	// KindBundlePort must be reached: a declared port of the bundle.
	KindBundlePort Kind = "bundle port"
	// KindOtherPort is a port of the bundle that is not declared.
	KindOtherPort Kind = "other port of the bundle"
	// KindGateway is the node's own address in the bundle's network.
	KindGateway Kind = "gateway"
	// KindLoopback is the node's or the guest's loopback: nothing of the
	// agent's may answer there.
	KindLoopback Kind = "loopback"
	// KindNode is another address of the node.
	KindNode Kind = "node address"
	// KindNeighbour is another Bottle's bundle.
	KindNeighbour Kind = "another Bottle's bundle"
	// KindMetadata is a cloud's metadata service.
	KindMetadata Kind = "cloud metadata"
	// KindPublic is an address of the internet.
	KindPublic Kind = "public address"
	// KindResolver is a name server: the guest's own and the usual ones.
	KindResolver Kind = "name server"
	// KindVMM is the address of smolvm's own gateway in the guest's network.
	KindVMM Kind = "smolvm's gateway"
)

// Protos that a target is tried by.
const (
	ProtoTCP  = "tcp"
	ProtoUDP  = "udp"
	ProtoDNS  = "dns"  // a query over UDP, its name made from the nonce
	ProtoICMP = "icmp" // an echo, where the guest may send one
)

// Target is one thing to try. An Addr that is not valid means the guest's own
// resolver, for ProtoDNS only.
type Target struct {
	Kind  Kind       `json:"kind"`
	Proto string     `json:"proto"`
	Addr  netip.Addr `json:"addr"`
	Port  uint16     `json:"port,omitempty"`
	// Canary: the agent listens there, and answers a nonce with its Greeting.
	Canary bool `json:"canary,omitempty"`
}

// String is a target in a person's words.
func (t Target) String() string {
	switch {
	case !t.Addr.IsValid():
		return t.Proto + " to the guest's own " + string(t.Kind)
	case t.Port == 0:
		return fmt.Sprintf("%s to %s %s", t.Proto, t.Kind, t.Addr)
	}
	return fmt.Sprintf("%s to %s %s", t.Proto, t.Kind, netip.AddrPortFrom(t.Addr, t.Port))
}

// Plan is what a prober is asked to do. It travels on its standard input, as
// JSON.
type Plan struct {
	Version int `json:"version"`
	// Nonce is brought to everything that is reached: 32 characters of
	// [0-9a-f], never used twice.
	Nonce string `json:"nonce"`
	// Reach must be reached first; how long that takes sets the patience for
	// everything else.
	Reach []Target `json:"reach"`
	// Avoid must not be.
	Avoid []Target `json:"avoid"`
	// Floor and Ceiling bound the patience for one target of Avoid.
	Floor   time.Duration `json:"floor"`
	Ceiling time.Duration `json:"ceiling"`
}

// Outcome of one attempt.
type Outcome string

// Outcomes. Reached is said only of what answered: a canary with its greeting,
// any other TCP server with a byte, a datagram or echo with another, a name
// with an address. Of Plan.Reach alone a connection is enough that was
// accepted and not reset at once.
const (
	Reached Outcome = "reached"
	// Accepted: a TCP connection opened, and nothing was said on it. smolvm's
	// gateway accepts by itself what its policy lets through, before it has
	// connected anywhere, so this alone is no proof of anything.
	Accepted    Outcome = "accepted"
	Refused     Outcome = "refused"
	Unreachable Outcome = "unreachable" // no route, or forbidden on the way
	TimedOut    Outcome = "timed out"
	NotTried    Outcome = "not tried" // the guest has no way to try
)

// Result is how one target fared.
type Result struct {
	Target  Target  `json:"target"`
	Outcome Outcome `json:"outcome"`
	// Detail is the guest's own word for it; at most 128 characters.
	Detail string `json:"detail,omitempty"`
}

// Report is what the prober prints, as one line of JSON.
type Report struct {
	Version int    `json:"version"`
	Nonce   string `json:"nonce"`
	// RoundTrip is how long the slowest of Reach took.
	RoundTrip time.Duration `json:"roundTrip"`
	Results   []Result      `json:"results"`
}

// Site is where a proof takes place: from it follows the Plan.
type Site struct {
	Nonce    string
	BundleIP netip.Addr
	// Ports are the declared ones, Other some that are not, to be tried.
	Ports, Other []int32
	Gateway      netip.Addr
	// Node are addresses of the node but loopback, of which the first few of
	// each family are tried; CanaryTCP and CanaryUDP the ports on which the
	// agent listens on all of its addresses.
	Node                 []netip.Addr
	CanaryTCP, CanaryUDP uint16
	// Neighbours are bundles of other Bottles, with a port that answers.
	Neighbours []netip.AddrPort
	// Public are addresses of the internet, from the agent's flags.
	Public []netip.AddrPort
	// Floor and Ceiling bound the patience for one target; slow nodes get more.
	Floor, Ceiling time.Duration
}

// Drop is a destination of packets that the wall dropped; Port and Proto are
// as in the wall's own count ("arp" has neither).
type Drop struct {
	Proto   string
	Addr    netip.Addr
	Port    uint16
	Packets uint64
}

// Policy is what is known of smolvm's own allow-list for the machine.
type Policy string

// Policies.
const (
	// PolicyExact: smolvm persisted exactly the one address of the bundle.
	PolicyExact Policy = "exact"
	// PolicyDiffers: smolvm has another, or none.
	PolicyDiffers Policy = "differs"
	// PolicyDropped: smolvm dropped it, as this release does for every machine
	// that is made of an artifact.
	PolicyDropped Policy = "dropped"
	// PolicyUnknown: this release does not tell.
	PolicyUnknown Policy = "unknown"
)

// Evidence is everything that a proof left behind.
type Evidence struct {
	Plan Plan
	// Report is nil when the prober gave none.
	Report *Report
	// Accepted counts the packets that the wall let through to each declared
	// port between the beginning and the end of the proof.
	Accepted map[int32]uint64
	// Drops are those of the same time.
	Drops []Drop
	// Denials are connections that smolvm itself says it refused since the
	// proof began; DenialsKnown says whether this release tells.
	Denials      []netip.AddrPort
	DenialsKnown bool
	Policy       Policy
}

// Verdict is what follows.
type Verdict struct {
	Result VerdictResult
	// Reached are the targets that the prober itself says it reached and must
	// not have, for Confessed.
	Reached []Target
	// Missing are the ports that were not reached, for NotReached; for
	// NotObserved, targets that the node should have seen tried and did not.
	Missing []string
	// Both: smolvm's own wall held as well, seen by its denials.
	Both bool
	// PolicyNote says in words what is short of Both; "" for Both, and where
	// nothing was observed that would tell.
	PolicyNote string
	// Rests are kinds of targets of which only the node's own checks tell.
	Rests []string
}

// VerdictResult is the outcome of a proof.
type VerdictResult string

// Outcomes of a proof.
const (
	Proven VerdictResult = "proven"
	// Confessed: the prober says that it reached what must not be reached. A
	// guest that lies here harms itself.
	Confessed   VerdictResult = "confessed"
	NotObserved VerdictResult = "not observed"
	// NotReached: a declared port of the bundle was not reached, so that
	// silence proves nothing.
	NotReached VerdictResult = "bundle not reached"
)
