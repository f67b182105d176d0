// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"errors"
	"fmt"
	"slices"

	"botbottle.dev/bottle-operator/internal/httppath"
)

// fileHTTP is an HTTPRule in the rules file.
type fileHTTP struct {
	Host        string      `json:"host"`
	HTTP        []fileMatch `json:"http,omitempty"`
	Credential  *Credential `json:"credential,omitempty"`
	PassSecrets []string    `json:"passSecrets,omitempty"`
}

// fileMatch is an HTTPMatch in the rules file.
type fileMatch struct {
	Methods []string `json:"methods,omitempty"`
	Paths   []string `json:"paths,omitempty"`
}

func texts(rules []Rule) []string {
	var out []string
	for _, r := range rules {
		out = append(out, r.String())
	}
	return out
}

func httpToFile(rules []HTTPRule) []fileHTTP {
	out := make([]fileHTTP, 0, len(rules))
	for _, r := range rules {
		one := fileHTTP{Host: r.Host.String(), Credential: r.Credential, PassSecrets: r.PassSecrets}
		for _, m := range r.HTTP {
			match := fileMatch{Methods: m.Methods}
			for _, p := range m.Paths {
				match.Paths = append(match.Paths, p.String())
			}
			one.HTTP = append(one.HTTP, match)
		}
		out = append(out, one)
	}
	return out
}

// open returns a copy of the set with the opened hosts of the file. It allows no host that
// the set does not allow.
func (f file) open(s Set) (Set, error) {
	hosts, err := ParseSet(f.Opened)
	if err != nil {
		return Set{}, fmt.Errorf("opened: %w", err)
	}
	rules := make([]HTTPRule, 0, len(f.HTTP))
	for i, one := range f.HTTP {
		r, err := one.parse()
		if err == nil && !slices.Contains(hosts.Rules(), r.Host) {
			err = errors.New("its host is not opened")
		}
		if err != nil {
			return Set{}, fmt.Errorf("http[%d]: %w", i, err)
		}
		rules = append(rules, r)
	}
	return s.open(hosts.Rules(), rules), nil
}

func (f fileHTTP) parse() (HTTPRule, error) {
	host, err := Parse(f.Host)
	if err != nil {
		return HTTPRule{}, err
	}
	r := HTTPRule{Host: host, Credential: f.Credential, PassSecrets: f.PassSecrets}
	for _, m := range f.HTTP {
		match := HTTPMatch{Methods: m.Methods}
		for _, text := range m.Paths {
			p, err := httppath.ParsePattern(text)
			if err != nil {
				return HTTPRule{}, fmt.Errorf("path %q: %w", text, err)
			}
			match.Paths = append(match.Paths, p)
		}
		r.HTTP = append(r.HTTP, match)
	}
	return r, r.Check()
}
