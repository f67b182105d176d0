// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"maps"
	"net"
	"slices"
	"strconv"
)

// MaxDenials is how many targets Denials keeps.
const MaxDenials = 16

// Denials is the list of the last refused targets, each once, as the status of a
// Bottle shows them. The zero value is an empty list. It is not safe for
// concurrent use.
type Denials struct {
	texts  []string            // the most recent first
	closed map[string]ClosedBy // by text
}

// Add adds a refused target, which may be anything that a guest wrote. It ignores
// a target without a host. Names that differ only in case or in the dot at the
// end are the same target.
func (d *Denials) Add(host string, port uint16) { d.AddClosed(host, port, "") }

// AddClosed is like Add, for a target that a limit of the platform closes; by may be
// "" for none.
func (d *Denials) AddClosed(host string, port uint16, by ClosedBy) {
	if host = PrintableHost(canonicalName(host)); host == "" {
		return
	}
	// JoinHostPort adds brackets to an IPv6 address; the host may already have them.
	if a, ok := hostAddr(host); ok {
		host = a.String()
	}
	d.add(net.JoinHostPort(host, strconv.Itoa(int(port))), by)
}

// AddRefusal adds what was refused. For a request to an opened host, it also says why and
// what to do.
func (d *Denials) AddRefusal(r Refusal) {
	if !slices.Contains(openedCauses, r.Cause) {
		d.AddClosed(r.Host, r.Port, r.By)
		return
	}
	r.Host = canonicalName(r.Host)
	if PrintableHost(r.Host) != "" {
		d.add(r.denial(), "")
	}
}

func (d *Denials) add(text string, by ClosedBy) {
	d.texts = slices.DeleteFunc(d.texts, func(t string) bool { return t == text })
	d.texts = slices.Insert(d.texts, 0, text)
	d.texts = d.texts[:min(len(d.texts), MaxDenials)]
	if d.closed == nil {
		d.closed = map[string]ClosedBy{}
	}
	d.closed[text] = by
	maps.DeleteFunc(d.closed, func(t string, by ClosedBy) bool { return by == "" || !slices.Contains(d.texts, t) })
}

// List returns HOST:PORT of each target, the most recent first, and for requests to opened
// hosts HOST:PORT: REASON. There are at most MaxDenials entries, each of at most 450
// characters of printable ASCII. It returns nil if there are none.
func (d *Denials) List() []string { return slices.Clone(d.texts) }

// ListClosed returns HOST:PORT: REASON of the targets of List that a limit of the
// platform closes. Each has at most 200 characters of printable ASCII.
func (d *Denials) ListClosed() []string {
	var out []string
	for _, t := range d.texts {
		if by := d.closed[t]; by != "" {
			out = append(out, t+": "+by.String())
		}
	}
	return out
}
