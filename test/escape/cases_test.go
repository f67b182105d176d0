// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"fmt"
	"strings"
	"testing"
)

const (
	declared = 8888

	httpAnswer = "HTTP/1."
	pingAnswer = " 0% packet loss"
	dnsAnswer  = "Name:"
)

// wall is what stops an attack; the zero value is nothing.
type wall int

const (
	// hostWall is the operator's own, which stops everything.
	hostWall wall = 1 << iota
	// policy is smolvm's allow-list, on releases and backends that enforce it.
	// It knows addresses and no ports. DNS it does not judge: whatever address
	// a guest sends a query to, smolvm takes it and asks the node's resolver.
	policy
)

func (w wall) String() string {
	switch w {
	case 0:
		return "nothing"
	case hostWall:
		return "the wall"
	case policy:
		return "smolvm's policy"
	}
	return "the wall, and by smolvm's policy"
}

// attack is one way out of a guest.
type attack struct {
	name string
	// walls are what stands in the way, each of them enough.
	walls wall
	// probe is a call of one of the probes, up to its marker.
	probe, answered string
	// vmm: it goes by way of smolvm's own gateway in the guest's network, which
	// only real machines have.
	vmm bool
}

// attempts gives each attack a marker of its own.
func attempts(attacks []attack) []attempt {
	run := nonce()
	out := make([]attempt, len(attacks))
	for i, a := range attacks {
		marker := fmt.Sprintf("esc%sn%02dz", run, i)
		out[i] = attempt{name: a.name, marker: marker, sh: a.probe + " " + marker, answered: a.answered}
	}
	return out
}

func http(host string, port int) (string, string) {
	return fmt.Sprintf("http %s %d", host, port), httpAnswer
}

// wayOut is what every guest must reach: the bundle's declared port.
func (s *site) wayOut() attack {
	probe, answer := http(bundleIP(s.walled), declared)
	return attack{name: "the bundle's declared port", probe: probe, answered: answer}
}

// attacks is everything that a guest of s.walled must not reach.
func (s *site) attacks(t *testing.T) []attack {
	var all []attack
	// walls are those in the way of what is added next.
	walls := hostWall
	add := func(name, probe, answered string) {
		all = append(all, attack{name: name, walls: walls, probe: probe, answered: answered, vmm: strings.Contains(name, "smolvm")})
	}
	tcp := func(name, host string, port int) {
		probe, answer := http(host, port)
		add(name+", TCP", probe, answer)
	}
	// A datagram is known by who received it; the answer says nothing more.
	udp := func(name, host string, port int) { add(name+", UDP", fmt.Sprintf("udp %s %d", host, port), "") }
	dns := func(name, host string) { add(name+", DNS", "dns '"+host+"'", dnsAnswer) }
	icmp := func(name, host string) { add(name+", ICMP", "echo_ "+host, pingAnswer) }

	tcp("a port of the bundle that is not declared (9418)", bundleIP(s.walled), 9418)
	tcp("a port of the bundle that is not declared (9100)", bundleIP(s.walled), 9100)
	icmp("the bundle", bundleIP(s.walled))
	dns("the guest's own resolver (smolvm's)", "")
	for _, resolver := range []struct{ name, host string }{
		{"the LAN", "10.77.0.1"}, {"the internet", "203.0.113.10"}, {"the LAN, IPv6", "fd00:77::1"}, {"the internet, IPv6", "2001:db8::10"},
	} {
		dns("a direct resolver on "+resolver.name, resolver.host)
		add("a direct resolver on "+resolver.name+", DNS over TCP", "dnstcp "+resolver.host, "")
	}

	walls = hostWall | policy
	tcp("another Bottle's bundle", bundleIP(s.ruled), declared)
	icmp("another Bottle's bundle", bundleIP(s.ruled))

	gateway, node4 := s.walled.Status.Network.Gateway, s.address(t, "-4", "world0", "global")
	for _, target := range []struct {
		name, host string
		ping       bool
	}{
		{"the host's loopback", "127.0.0.1", false}, // a guest has one of its own, which answers
		{"the host's loopback by way of smolvm's gateway", "100.96.0.1", false},
		{"the node's address", node4, true},
		{"the gateway", gateway, true},
	} {
		tcp(target.name, target.host, listenerPort)
		udp(target.name, target.host, listenerPort)
		if target.ping {
			icmp(target.name, target.host)
		}
	}
	for _, target := range []struct{ name, host string }{
		{"the LAN", "10.77.0.1"}, {"cloud metadata", "169.254.169.254"}, {"the internet", "203.0.113.10"},
		{"the LAN, IPv6", "fd00:77::1"}, {"cloud metadata, IPv6", "fd00:ec2::254"}, {"the internet, IPv6", "2001:db8::10"},
	} {
		tcp(target.name, target.host, 80)
		udp(target.name, target.host, 4000)
		icmp(target.name, target.host)
	}
	for _, target := range []struct{ name, host string }{
		{"the host's loopback, IPv6", "::1"}, {"the node's address, IPv6", s.address(t, "-6", "world0", "global")},
	} {
		tcp(target.name, target.host, listenerPort)
		udp(target.name, target.host, listenerPort)
	}
	// An address of the link itself, by whatever link the guest has.
	gateway6 := s.address(t, "-6", bridge(s.walled), "link")
	add("the gateway, IPv6 link-local, TCP", fmt.Sprintf("scoped http %s %d", gateway6, listenerPort), httpAnswer)
	add("the gateway, IPv6 link-local, UDP", fmt.Sprintf("scoped udp %s %d", gateway6, listenerPort), "")
	return all
}

// address is the node's own on a link, of a family and scope.
func (s *site) address(t *testing.T, family, link, scope string) string {
	t.Helper()
	out := s.Exec(t, node, "ip", "-o", family, "addr", "show", "dev", link, "scope", scope)
	fields := strings.Fields(out)
	if len(fields) < 4 {
		t.Fatalf("address of scope %s on %s: got %q, want one", scope, link, out)
	}
	address, _, _ := strings.Cut(fields[3], "/")
	return address
}
