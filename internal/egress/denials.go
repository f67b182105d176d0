// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"net"
	"slices"
	"strconv"
)

// MaxDenials is how many targets Denials remembers.
const MaxDenials = 16

// Denials are the last targets that were refused, each once, as the status of
// a Bottle shows them. The zero value has none. It is not safe for concurrent
// use.
type Denials struct {
	texts []string // the most recent first
}

// Add remembers a refused target, which may be anything that a guest wrote. A
// target without a host is none. Case and the dot that ends a full name make
// no other target.
func (d *Denials) Add(host string, port uint16) {
	if host = PrintableHost(canonicalName(host)); host == "" {
		return
	}
	// An IPv6 address gets brackets, which the host may have already.
	if a, ok := hostAddr(host); ok {
		host = a.String()
	}
	text := net.JoinHostPort(host, strconv.Itoa(int(port)))
	d.texts = slices.DeleteFunc(d.texts, func(t string) bool { return t == text })
	d.texts = slices.Insert(d.texts, 0, text)
	d.texts = d.texts[:min(len(d.texts), MaxDenials)]
}

// List is HOST:PORT of each, the most recent first: at most MaxDenials, each
// of at most 96 characters of printable ASCII. It is nil when there is none.
func (d *Denials) List() []string { return slices.Clone(d.texts) }
