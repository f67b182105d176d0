// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// Cause says why a bundle did not let a request through. It is part of the bundle's
// log.
type Cause string

// The causes. Up to CauseRequest, the request is refused; after that, a rule allows it,
// but the host cannot be reached.
const (
	// CauseNoRule: no rule names the host and port.
	CauseNoRule Cause = "no-rule"
	// CauseOtherPort: a rule names the host, but not with this port.
	CauseOtherPort Cause = "other-port"
	// CausePrivate: the host's name resolves to an address that only a rule for the
	// address opens.
	CausePrivate Cause = "private-address"
	// CauseNever: the host is at an address that no rule opens.
	CauseNever Cause = "never"
	// CauseOwnNetwork: the host is in one of the bundle's own networks.
	CauseOwnNetwork Cause = "own-network"
	// CausePlatform: a limit of the platform closes the host.
	CausePlatform Cause = "platform"
	// CauseRulesChanged: the rules no longer allow a connection that is open.
	CauseRulesChanged Cause = "rules-changed"
	// CauseScheme: the request is for a URL that needs CONNECT.
	CauseScheme Cause = "scheme"
	// CauseBody: a CONNECT has a body.
	CauseBody Cause = "body"
	// CausePort: the request names no valid port.
	CausePort Cause = "port"
	// CauseRequest: the request is not one for a proxy.
	CauseRequest Cause = "request"
	// CauseMethodPath: the host is opened, and no rule for it matches the request.
	CauseMethodPath Cause = "method-path"
	// CausePath: servers may read the path of the request in different ways.
	CausePath Cause = "path"
	// CauseKnownSecret: the request contains the value of a Secret of the Bottle.
	CauseKnownSecret Cause = "known-secret"
	// CauseNeedsTLS: the connection to an opened host does not use TLS.
	CauseNeedsTLS Cause = "needs-tls"
	// CauseHostMismatch: CONNECT, TLS and the request name different hosts.
	CauseHostMismatch Cause = "host-mismatch"
	// CauseCredentialMissing: the bundle does not have the credential of the rule.
	CauseCredentialMissing Cause = "credential-missing"

	// CauseUnknownName: the host's name does not exist or has no address.
	CauseUnknownName Cause = "unknown-name"
	// CauseResolver: the resolver did not say whether the name exists.
	CauseResolver Cause = "resolver"
	// CauseConnectionRefused: the host is there, and nothing listens on the port.
	CauseConnectionRefused Cause = "connection-refused"
	// CauseTimeout: the host does not answer.
	CauseTimeout Cause = "timeout"
	// CauseNoRoute: the node has no route to the host.
	CauseNoRoute Cause = "no-route"
	// CauseUnreachable: the host cannot be reached for another reason.
	CauseUnreachable Cause = "unreachable"
	// CauseBadAnswer: the host answers with something other than HTTP.
	CauseBadAnswer Cause = "bad-answer"
	// CauseShortSecret: a rule let the request through although it contains the value of a
	// Secret of the Bottle, because the value is short. It is only reported.
	CauseShortSecret Cause = "short-secret"
	// CauseUpstreamCertificate: the certificate of an opened host is not trusted.
	CauseUpstreamCertificate Cause = "upstream-certificate"
	// CauseCoding: the answer of an opened host has a content coding that the bundle cannot
	// read.
	CauseCoding Cause = "coding"
)

// OwnNetwork explains, for Set.Without, why no address of the bundle's own networks may
// be reached: the node, the machine or the bundle answers there, and rules are only
// about what is outside of these.
const OwnNetwork = "in the bundle's own network, where the node's gateway, the machine and the bundle itself are"

// Refusal is a request that a bundle did not let through. The bundle answers with it
// and logs its fields, from which the agent makes the same text again: the agent shows
// nothing that a bundle wrote.
type Refusal struct {
	// Host is what the request asks for, as the guest wrote it or as it was logged.
	Host  string
	Port  uint16
	Cause Cause
	// Addr is the address that Host is or resolves to, for the causes that concern an
	// address.
	Addr netip.Addr
	// By is the limit of the platform, for CausePlatform.
	By ClosedBy
	// Method is the method of a request to an opened host: one of Methods, or OtherMethod.
	Method string
	// Secret and Key name the Secret of the Bottle, for CauseKnownSecret and
	// CauseCredentialMissing, and Place is one of Places, for CauseKnownSecret.
	Secret, Key, Place string
}

// Refuse returns the refusal of a request because of an error of a Set.
func Refuse(host string, port uint16, err error) Refusal {
	r := Refusal{Host: host, Port: port, Cause: CauseNoRule, By: ClosedReason(err)}
	var addr *AddrError
	if errors.As(err, &addr) {
		r.Addr = addr.Addr
	}
	switch {
	case r.By != "":
		r.Cause = CausePlatform
	case addr == nil:
	case addr.Why == OwnNetwork:
		r.Cause = CauseOwnNetwork
	case addr.Rule != "":
		r.Cause = CausePrivate
	default:
		r.Cause = CauseNever
	}
	return r
}

const (
	noRule      = "no egress rule allows this host and port"
	unexplained = "the bundle did not forward the request"
)

// Why returns the reason for the refusal, in at most 200 characters of printable ASCII.
// The only part of it that a guest may have written is an address.
func (r Refusal) Why() string {
	if !r.Addr.IsValid() && (r.Cause == CausePrivate || r.Cause == CauseNever || r.Cause == CauseOwnNetwork) {
		return unexplained // this release of the bundle writes no such log line
	}
	switch r.Cause {
	case CauseNoRule:
		return noRule
	case CauseOtherPort:
		return noRule + ": the host is allowed on another port"
	case CausePrivate:
		return fmt.Sprintf("address %s is %s, which a rule for a name does not open", r.plain(), cmp.Or(find(private, r.plain()), "private"))
	case CauseNever:
		return fmt.Sprintf("address %s can never be reached: it is %s", r.plain(), cmp.Or(find(never, r.plain()), "not a plain address"))
	case CauseOwnNetwork:
		return fmt.Sprintf("address %s can never be reached: it is %s", r.plain(), OwnNetwork)
	case CauseKnownSecret:
		return r.knownSecret()
	case CauseShortSecret:
		return r.knownSecret() + ", which is too short to be refused"
	case CausePlatform:
		if !r.Addr.IsValid() {
			return (&ClosedError{r.By}).Error()
		}
		return (&AddrError{Addr: r.plain(), Why: r.By.String(), By: r.By}).Error()
	}
	return cmp.Or(whys[r.Cause], unexplained)
}

// whys are the reasons that are the same for every host.
var whys = map[Cause]string{
	CauseRulesChanged:      "the egress rules have changed: connection closed",
	CauseScheme:            "only http is forwarded; use CONNECT for anything else",
	CauseBody:              "CONNECT takes no body",
	CausePort:              "the target has no valid port",
	CauseRequest:           "this is a proxy: it only answers proxy requests",
	CauseUnknownName:       "the name does not resolve: the bundle's resolver knows no address for it",
	CauseResolver:          "the name does not resolve: the bundle's resolver does not answer",
	CauseConnectionRefused: "the host refuses connections on this port",
	CauseTimeout:           "the host does not answer in time",
	CauseNoRoute:           "the host cannot be reached: the node has no route to it",
	CauseUnreachable:       "the host cannot be reached",
	CauseBadAnswer:         "the host does not answer properly",

	CauseMethodPath:          "no rule for this host allows this method and path",
	CausePath:                "the path is ambiguous: not all servers read it in the same way",
	CauseNeedsTLS:            "requests to this host must use TLS",
	CauseHostMismatch:        "the connection and the request name different hosts",
	CauseCredentialMissing:   "the bundle does not have the credential that the rule for this request adds",
	CauseUpstreamCertificate: "the certificate of the host is not trusted",
	CauseCoding:              "the answer has a content coding that the bundle cannot read, so it may contain the credential",
}

// WhatToDo returns how the request can be allowed or can succeed; "" if there is nothing
// to say. It is printable ASCII of at most 150 characters.
func (r Refusal) WhatToDo() string {
	const field = "spec.egress.allow of the Bottle"
	switch rule := r.Rule(); {
	case r.Cause == CauseMethodPath:
		return "to allow it, add " + r.method() + " and its path to the host's rule in spec.egress.rules of the Bottle"
	case rule != "":
		return fmt.Sprintf("to allow it, add %q to %s", rule, field)
	case r.Cause == CausePlatform && (r.By == ByFlag || r.By == ByCeiling):
		return "ask an administrator to change that flag of the node's agent"
	case r.Cause == CauseNever, r.Cause == CauseOwnNetwork, r.Cause == CausePlatform:
		return "no rule of the Bottle opens it"
	}
	return whatToDo[r.Cause]
}

// whatToDo is what to do where it is the same for every host.
var whatToDo = map[Cause]string{
	CauseUnknownName:         "check its spelling",
	CausePath:                "send it without dot segments, empty segments, backslashes and characters that are encoded twice",
	CauseKnownSecret:         "to let the Secret pass, add it to passSecrets of the host's rule in spec.egress.rules of the Bottle",
	CauseNeedsTLS:            "use https",
	CauseHostMismatch:        "CONNECT, the server name of TLS and the Host header must agree",
	CauseCredentialMissing:   "create the Secret and the key that its secretKeyRef names",
	CauseUpstreamCertificate: "if the host has a private authority, give it to the node's agent with --egress-upstream-ca",
	CauseCoding:              "the server must answer with gzip or without a coding",
}

// Rule returns the rule that allows the request; "" if there is none, or if a rule is not
// what is missing.
func (r Refusal) Rule() string {
	switch {
	case r.Cause == CauseNoRule || r.Cause == CauseOtherPort:
		return r.rule()
	case r.Cause == CausePrivate && r.Addr.IsValid():
		return Rule{addrs: netip.PrefixFrom(r.plain(), r.plain().BitLen()), port: r.Port}.String()
	}
	return ""
}

// plain returns the address without a zone, which a guest may have written.
func (r Refusal) plain() netip.Addr { return r.Addr.Unmap().WithZone("") }

// rule returns the rule that would allow the request. It returns "" if none can, or if
// the host was too long to be logged whole: a rule for the rest of it would be another
// one.
func (r Refusal) rule() string {
	host := r.Host
	if a, ok := hostAddr(host); ok {
		host = a.Unmap().String() // JoinHostPort adds the brackets that a rule needs
	}
	rule, err := Parse(net.JoinHostPort(host, strconv.Itoa(int(r.Port))))
	if err != nil || len(r.Host) >= MaxShownHost || rule.subdomains || rule.IsAddr() && !rule.addrs.IsSingleIP() {
		return ""
	}
	return rule.String()
}

// Reason says why and, after a semicolon, what to do.
func (r Refusal) Reason() string {
	if do := r.WhatToDo(); do != "" {
		return r.Why() + "; " + do
	}
	return r.Why()
}

// String returns "HOST, port PORT: REASON", without the host or the port if there is
// none. It is printable ASCII of at most 450 characters.
func (r Refusal) String() string {
	switch {
	case r.Host == "":
		return r.Reason()
	case r.Port == 0:
		return fmt.Sprintf("%s: %s", PrintableHost(r.Host), r.Reason())
	}
	return fmt.Sprintf("%s, port %d: %s", PrintableHost(r.Host), r.Port, r.Reason())
}
