// SPDX-License-Identifier: Apache-2.0

// Package probe defines the proof that a guest reaches its bundle and nothing
// else: what the prober in the guest tries (Plan), what it answers (Report),
// what the node saw meanwhile (Evidence), and what follows from that (Judge).
// The package is pure: it opens no connection, and knows nothing of smolvm,
// docker or the cluster. It assumes that the guest lies: the guest's word alone
// never makes a Verdict Proven.
package probe

import (
	"fmt"
	"net/netip"
	"time"
)

// Kind is the kind of a target, as shown in messages.
type Kind string

// Kinds of targets.
const (
	// KindBundlePort must be reached: a declared port of the bundle.
	KindBundlePort Kind = "bundle port"
	// KindOtherPort is a port of the bundle that is not declared.
	KindOtherPort Kind = "other port of the bundle"
	// KindGateway is the node's own address in the bundle's network. Nothing has it if the
	// bundle is in a Pod, but attempts on it show that the wall refuses them.
	KindGateway Kind = "gateway"
	// KindLoopback is the node's or the guest's loopback. The agent's canaries
	// must not be reachable there.
	KindLoopback Kind = "loopback"
	// KindNode is another address of the node.
	KindNode Kind = "node address"
	// KindNeighbour is another Bottle's bundle.
	KindNeighbour Kind = "another Bottle's bundle"
	// KindPod is the Pod of the Bottle's own bundle, at another address than the bundle's,
	// or the Pod's gateway.
	KindPod Kind = "the Bottle's Pod"
	// KindService is a service of the cluster.
	KindService Kind = "cluster service"
	// KindMetadata is a cloud's metadata service.
	KindMetadata Kind = "cloud metadata"
	// KindPublic is an internet address.
	KindPublic Kind = "public address"
	// KindResolver is a name server: the guest's own, or a usual one.
	KindResolver Kind = "name server"
	// KindVMM is the address of smolvm's own gateway in the guest's network.
	KindVMM Kind = "smolvm's gateway"
)

// Protocols over which a target is tried.
const (
	ProtoTCP  = "tcp"
	ProtoUDP  = "udp"
	ProtoDNS  = "dns"  // a query over UDP, its name made from the nonce
	ProtoICMP = "icmp" // an echo request, if the guest may send one
)

// Target is one address to try. With ProtoDNS, an invalid Addr means the guest's
// own resolver.
type Target struct {
	Kind  Kind       `json:"kind"`
	Proto string     `json:"proto"`
	Addr  netip.Addr `json:"addr"`
	Port  uint16     `json:"port,omitempty"`
	// Canary means that the agent listens there, and answers a nonce with its
	// Greeting.
	Canary bool `json:"canary,omitempty"`
}

// String describes the target for messages.
func (t Target) String() string {
	switch {
	case !t.Addr.IsValid():
		return t.Proto + " to the guest's own " + string(t.Kind)
	case t.Port == 0:
		return fmt.Sprintf("%s to %s %s", t.Proto, t.Kind, t.Addr)
	}
	return fmt.Sprintf("%s to %s %s", t.Proto, t.Kind, netip.AddrPortFrom(t.Addr, t.Port))
}

// Plan is what a prober must do. The prober reads it from its standard input, as
// JSON.
type Plan struct {
	Version int `json:"version"`
	// Nonce is sent to everything that is reached: 32 characters of [0-9a-f],
	// never used twice.
	Nonce string `json:"nonce"`
	// Reach are the targets that must be reached. They are tried first; the time
	// that they take sets the patience for everything else.
	Reach []Target `json:"reach"`
	// Avoid are the targets that must not be reached.
	Avoid []Target `json:"avoid"`
	// Floor and Ceiling bound the patience for one target of Avoid.
	Floor   time.Duration `json:"floor"`
	Ceiling time.Duration `json:"ceiling"`
}

// Outcome is the outcome of one attempt.
type Outcome string

// Outcomes of an attempt. Reached means that the target answered: a canary with
// its greeting, any other TCP server with a byte, a datagram or echo with
// another, a name with an address. Only for Plan.Reach is it enough that a
// connection was accepted and not immediately reset.
const (
	Reached Outcome = "reached"
	// Accepted: a TCP connection opened, and nothing was sent on it. smolvm's
	// gateway itself accepts what its policy allows, before it has connected
	// anywhere, so this alone proves nothing.
	Accepted    Outcome = "accepted"
	Refused     Outcome = "refused"
	Unreachable Outcome = "unreachable" // no route, or forbidden on the way
	TimedOut    Outcome = "timed out"
	NotTried    Outcome = "not tried" // the guest has no way to try
)

// Result is the outcome for one target.
type Result struct {
	Target  Target  `json:"target"`
	Outcome Outcome `json:"outcome"`
	// Detail is the guest's own description; at most 128 characters.
	Detail string `json:"detail,omitempty"`
}

// Report is what the prober prints, as one line of JSON.
type Report struct {
	Version int    `json:"version"`
	Nonce   string `json:"nonce"`
	// RoundTrip is how long the slowest target of Reach took.
	RoundTrip time.Duration `json:"roundTrip"`
	Results   []Result      `json:"results"`
}

// Site describes where a proof takes place. The Plan is derived from it.
type Site struct {
	Nonce    string
	BundleIP netip.Addr
	// Ports are the declared ports of the bundle. Other are some undeclared
	// ports to try.
	Ports, Other []int32
	Gateway      netip.Addr
	// Node are addresses of the node without loopback; the first few of each
	// family are tried. CanaryTCP and CanaryUDP are the ports on which the agent
	// listens on all addresses of the node.
	Node                 []netip.Addr
	CanaryTCP, CanaryUDP uint16
	// Neighbours are bundles of other Bottles, with a port that answers.
	Neighbours []netip.AddrPort
	// Pod are the addresses of the bundle's Pod and of its gateways; none if the bundle is
	// not in a Pod. The bundle may answer there on its own ports. Services are addresses of
	// the cluster.
	Pod      []netip.Addr
	Services []netip.AddrPort
	// Public are internet addresses, from the agent's flags.
	Public []netip.AddrPort
	// Floor and Ceiling bound the patience for one target. It is longer on slow
	// nodes.
	Floor, Ceiling time.Duration
}

// Drop is a destination of packets that the wall dropped. Proto and Port are as
// the wall counts them; "arp" has no Port.
type Drop struct {
	Proto   string
	Addr    netip.Addr
	Port    uint16
	Packets uint64
}

// Policy is what is known about smolvm's own allow-list for the machine.
type Policy string

// Policies.
const (
	// PolicyExact: smolvm persisted exactly the bundle's address.
	PolicyExact Policy = "exact"
	// PolicyDiffers: smolvm persisted another policy, or none.
	PolicyDiffers Policy = "differs"
	// PolicyDropped: smolvm dropped the policy, as this release does for every
	// machine that is made from an artifact.
	PolicyDropped Policy = "dropped"
	// PolicyUnknown: this release does not report a machine's policy.
	PolicyUnknown Policy = "unknown"
)

// Evidence is everything that is known about a finished proof.
type Evidence struct {
	Plan Plan
	// Report is nil when the prober gave none.
	Report *Report
	// Accepted counts the packets that the wall let through to each declared
	// port between the beginning and the end of the proof.
	Accepted map[int32]uint64
	// Drops are the destinations of packets that the wall dropped in that time.
	Drops []Drop
	// Denials are connections that smolvm reports as refused since the proof
	// began. DenialsKnown is false if this release does not report them.
	Denials      []netip.AddrPort
	DenialsKnown bool
	Policy       Policy
}

// Verdict is the result of a proof.
type Verdict struct {
	Result VerdictResult
	// Reached is set for Confessed: the targets that must not be reached but
	// that the prober reports as reached.
	Reached []Target
	// Missing is set for NotReached, to the ports that were not reached, and for
	// NotObserved, to the attempts that the node should have seen but did not.
	Missing []string
	// Both means that smolvm's own wall held as well, as its denials show.
	Both bool
	// PolicyNote explains why Both is false. It is "" if Both is true, or if
	// nothing was observed that would explain it.
	PolicyNote string
	// Unobserved are the kinds of targets that only the node's own checks cover,
	// because at least one attempt left no trace.
	Unobserved []string
}

// VerdictResult is the result of a proof, in a Verdict.
type VerdictResult string

// Results of a proof.
const (
	Proven VerdictResult = "proven"
	// Confessed: the prober reports that it reached what must not be reached. A
	// guest that lies about this harms only itself.
	Confessed   VerdictResult = "confessed"
	NotObserved VerdictResult = "not observed"
	// NotReached: a declared port of the bundle was not reached, so that
	// silence proves nothing.
	NotReached VerdictResult = "bundle not reached"
)
