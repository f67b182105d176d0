// SPDX-License-Identifier: Apache-2.0

package escape

import (
	"fmt"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

const (
	declared = 8888

	httpAnswer = "HTTP/1."
	pingAnswer = " 0% packet loss"
	dnsAnswer  = "Name:"
)

// wall is a set of barriers that stop an attack; the zero value is empty.
type wall int

const (
	// hostWall is the operator's wall on the node. It stops every attack.
	hostWall wall = 1 << iota
	// policy is smolvm's allow-list, on the releases and backends that enforce it.
	// It considers addresses but not ports. It does not apply to DNS: smolvm
	// intercepts a guest's query to any address and forwards it to the node's
	// resolver.
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
	// walls are the barriers against the attack. Each of them alone stops it.
	walls wall
	// probe is a call of one of the probes, without its last argument, the marker.
	// answered is text that the guest sees only if it got through, or "".
	probe, answered string
	// vmm reports that the attack uses smolvm's own gateway in the guest's network,
	// which only real machines have.
	vmm bool
}

// attempts gives each attack its own marker.
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

// allowedPath is the one thing that every guest must reach: the bundle's declared
// port.
func (s *site) allowedPath() attack {
	probe, answer := http(bundleIP(s.walled), declared)
	return attack{name: "the bundle's declared port", probe: probe, answered: answer}
}

// attacks returns an attack on everything that the guest of s.walled must not reach.
func (s *site) attacks(t *testing.T) []attack {
	var all []attack
	// walls are the barriers against the attacks that are added next.
	walls := hostWall
	add := func(name, probe, answered string) {
		all = append(all, attack{name: name, walls: walls, probe: probe, answered: answered, vmm: strings.Contains(name, "smolvm")})
	}
	tcp := func(name, host string, port int) {
		probe, answer := http(host, port)
		add(name+", TCP", probe, answer)
	}
	// Only its receiver shows that a datagram arrived; the guest's output does not.
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
	if s.OnPods(t) {
		gateway = s.address(t, "-4", "cni0", "global") // nothing has the Bottle's
		pod, other := s.podIP(t, s.walled), s.podIP(t, s.ruled)
		tcp("a port of the bundle that is not declared, at the Pod's address", pod, 9418)
		icmp("the bundle at the Pod's address", pod)
		tcp("another Bottle's bundle at its Pod's address", other, declared)
		icmp("another Bottle's bundle at its Pod's address", other)
		tcp("the API server's Service", "10.96.0.1", 443)
	}
	for _, target := range []struct {
		name, host string
		ping       bool
	}{
		{"the host's loopback", "127.0.0.1", false}, // the guest's own loopback answers there
		{"the host's loopback through smolvm's gateway", "100.96.0.1", false},
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
	if s.OnPods(t) {
		return all // the bridge in the Pod has no IPv6
	}
	// A link-local address, tried on every link that the guest has.
	gateway6 := s.address(t, "-6", bridge(s.walled), "link")
	add("the gateway, IPv6 link-local, TCP", fmt.Sprintf("scoped http %s %d", gateway6, listenerPort), httpAnswer)
	add("the gateway, IPv6 link-local, UDP", fmt.Sprintf("scoped udp %s %d", gateway6, listenerPort), "")
	return all
}

// podIP returns the address of b's Pod on the Pods' network.
func (s *site) podIP(t *testing.T, b *v1alpha1.Bottle) string {
	t.Helper()
	out := s.Exec(t, node, append(s.BesideWall(t, b), "ip", "-o", "-4", "addr", "show", "dev", "eth0", "scope", "global")...)
	fields := strings.Fields(out)
	if len(fields) < 4 {
		t.Fatalf("address of the Pod of Bottle %s: got %q, want one", b.Name, out)
	}
	address, _, _ := strings.Cut(fields[3], "/")
	return address
}

// address returns the node's address on a link, of the given family and scope.
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
