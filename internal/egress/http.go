// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"slices"

	"botbottle.dev/bottle-operator/internal/httppath"
)

// HTTPRule lets through requests to one host that the bundle opens.
type HTTPRule struct {
	// Host is a name, the subdomains of a name, or a single address.
	Host Rule
	// HTTP lists the requests that the rule is for; empty for every request.
	HTTP []HTTPMatch
	// Credential is added to these requests; nil for none.
	Credential *Credential
	// PassSecrets name the Secrets whose values these requests may contain.
	PassSecrets []string
}

// HTTPMatch describes requests by method and path. They must match both.
type HTTPMatch struct {
	Methods []string           // empty for every method
	Paths   []httppath.Pattern // empty for every path
}

// Credential names a secret that is added to requests, and says how. It never holds
// the value.
type Credential struct {
	// Secret and Key are the names of the Secret and of the key in it.
	Secret string `json:"secret"`
	Key    string `json:"key"`
	// Header carries Prefix and the value, or what basic authentication makes of
	// BasicUser and the value.
	Header    string `json:"header"`
	Prefix    string `json:"prefix,omitempty"`
	BasicUser string `json:"basicUser,omitempty"`
}

// String returns the name of the credential: SECRET/KEY.
func (c Credential) String() string { return c.Secret + "/" + c.Key }

// Equal reports whether both rules are the same.
func (r HTTPRule) Equal(other HTTPRule) bool {
	return r.Host == other.Host && r.sameCredential(other) &&
		slices.EqualFunc(r.HTTP, other.HTTP, HTTPMatch.Equal) && slices.Equal(r.PassSecrets, other.PassSecrets)
}

func (r HTTPRule) sameCredential(other HTTPRule) bool {
	a, b := r.Credential, other.Credential
	return a == b || a != nil && b != nil && *a == *b
}

// Equal reports whether both describe the same requests in the same words.
func (m HTTPMatch) Equal(other HTTPMatch) bool {
	return slices.Equal(m.Methods, other.Methods) && slices.Equal(m.Paths, other.Paths)
}

// Match reports whether the rule is for a request to its host. path is in the form
// that httppath.Normalize returns.
func (r HTTPRule) Match(method, path string) bool {
	return len(r.HTTP) == 0 || slices.ContainsFunc(r.HTTP, func(m HTTPMatch) bool { return m.Match(method, path) })
}

// Match reports whether a request has one of the methods and one of the paths.
func (m HTTPMatch) Match(method, path string) bool {
	return (len(m.Methods) == 0 || slices.Contains(m.Methods, method)) &&
		(len(m.Paths) == 0 || slices.ContainsFunc(m.Paths, func(p httppath.Pattern) bool { return p.Match(path) }))
}

// opened are the hosts whose connections are opened, and the rules for their requests.
type opened struct {
	hosts Set // only its names and addresses are used
	rules []HTTPRule
}

// host returns the most specific opened host that a guest's request for a host is for.
func (o *opened) host(host string, port uint16) (Rule, bool) {
	if o == nil {
		return Rule{}, false
	}
	if addr, ok := hostAddr(host); ok {
		addr, _ = canonicalAddr(addr)
		return o.hosts.addrRule(addr, port)
	}
	return o.hosts.matchName(canonicalName(host), port)
}

// WithHTTP returns a copy of the set that also allows the hosts of these rules. Their
// connections are opened, and the rules decide on the requests. The rules come after
// those that the set has already.
func (s Set) WithHTTP(rules ...HTTPRule) Set {
	hosts := make([]Rule, 0, len(rules))
	for _, r := range rules {
		hosts = append(hosts, r.Host)
	}
	out := NewSet(slices.Concat(s.Rules(), hosts)...)
	out.closed, out.platform, out.refused = s.closed, s.platform, s.refused
	return out.open(slices.Concat(s.OpenedHosts(), hosts), slices.Concat(s.AllHTTPRules(), rules))
}

// WithOpened returns a copy of the set in which the connections to these hosts are opened
// too, as far as the set allows the hosts. Without a rule for it, every request to an
// opened host is refused.
func (s Set) WithOpened(hosts ...Rule) Set {
	return s.open(slices.Concat(s.OpenedHosts(), hosts), s.AllHTTPRules())
}

// open returns a copy of the set with these opened hosts and these rules.
func (s Set) open(hosts []Rule, rules []HTTPRule) Set {
	s.opened = nil
	if len(hosts) > 0 {
		s.opened = &opened{hosts: NewSet(hosts...), rules: rules}
	}
	return s
}

// Opens reports whether connections to host on port must be opened, and never
// tunnelled. It does not say whether the host is allowed; Match does.
func (s Set) Opens(host string, port uint16) bool {
	_, ok := s.opened.host(host, port)
	return ok
}

// HTTPRules returns the rules for requests to a host: those for the most specific opened
// host that it matches, in their order. The first rule that matches a request decides. If
// there are none although the host is opened, every request is refused.
func (s Set) HTTPRules(host string, port uint16) []HTTPRule {
	pattern, ok := s.opened.host(host, port)
	if !ok {
		return nil
	}
	var out []HTTPRule
	for _, r := range s.opened.rules {
		if r.Host == pattern {
			out = append(out, r)
		}
	}
	return out
}

// AllHTTPRules returns the rules for requests to all opened hosts, in their order.
func (s Set) AllHTTPRules() []HTTPRule {
	if s.opened == nil {
		return nil
	}
	return slices.Clone(s.opened.rules)
}

// OpenedHosts returns the hosts whose connections are opened, each once, in the order of
// Rules. Some of them may not be allowed.
func (s Set) OpenedHosts() []Rule {
	if s.opened == nil {
		return nil
	}
	return s.opened.hosts.Rules()
}
