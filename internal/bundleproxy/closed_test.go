// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
)

// closedFile is a rules file of a node with the addresses 198.51.100.9 and
// 172.17.0.1, with the Service network closed by the flag, and with the rules that
// the agent refused.
const closedFile = `{"version":1,
	"allow":["0.0.0.0/0:80","[::/0]:80","0.0.0.0/0:10250","node.example.com:10250","bundle.example.com:80","service.example.com:443","docker.example.com:2375","mixed-node.example.com:80","api.example.com:443"],
	"closed":{"subnet-pool":["192.168.0.0/16"],"node-address":["198.51.100.9/32","172.17.0.1/32","2001:db8:77::2/128"],"egress-closed":["10.96.0.0/12"]},
	"refused":["172.17.0.1:2375","192.168.45.2:8888","10.96.0.1:443","evil.example.com:443"]}`

func newClosedWorld(t *testing.T) *world {
	w := newWorld(t)
	w.mu.Lock()
	for name, addrs := range map[string][]string{
		"node.example.com.": {"198.51.100.9"}, "bundle.example.com.": {"192.168.45.2"}, "service.example.com.": {"10.96.0.1"}, "docker.example.com.": {"172.17.0.1"},
		"mixed-node.example.com.": {"198.51.100.9", "64:ff9b::ac11:1", "203.0.113.20"}, "evil.example.com.": {"203.0.113.66"},
	} {
		for _, a := range addrs {
			w.names[name] = append(w.names[name], netip.MustParseAddr(a))
		}
	}
	w.mu.Unlock()
	w.replaceRules(closedFile)
	w.eventually("the rules are read", func() bool { s, _ := w.roundTrip(connect("203.0.113.1:80")); return s == 200 })
	return w
}

// TestPlatformStaysClosed checks that neither a rule for an address nor one for a
// name that resolves there opens what the platform closes.
func TestPlatformStaysClosed(t *testing.T) {
	w := newClosedWorld(t)
	w.mu.Lock()
	w.dialed = nil
	w.mu.Unlock()
	const pool, node, flag, ceiling = "in the subnet pool", "an address of this node", "in a network that --egress-closed names", "not within --egress-ceiling"
	for request, why := range map[string]string{
		connect("192.168.45.2:8888"): pool, get("http://192.168.45.2/"): pool, get("http://bundle.example.com/"): pool,
		connect("198.51.100.9:10250"): node, get("http://198.51.100.9/"): node, connect("node.example.com:10250"): node, connect("NODE.example.com.:10250"): node,
		connect("[2001:db8:77::2]:80"): node, connect("[::ffff:198.51.100.9]:80"): node, connect("[64:ff9b::c633:6409]:80"): node, connect("[2002:c633:6409::1]:80"): node,
		connect("[2001:0:cb00:7101:0:0:39cc:9bf6]:80"): node, connect("[2001:db8::5efe:c633:6409]:80"): node,
		connect("172.17.0.1:2375"): node, connect("docker.example.com:2375"): node,
		connect("10.96.0.1:443"): flag, connect("service.example.com:443"): flag, get("http://10.100.0.1/"): flag,
		connect("evil.example.com:443"): ceiling,
	} {
		status, body := w.roundTrip(request)
		if status != 403 || !strings.Contains(body, "closed by the platform: it is "+why) {
			t.Errorf("%q: got %d %q, want 403 because it is %s", request, status, body, why)
		}
	}
	w.mu.Lock()
	dialed, lookups := w.dialed, strings.Join(w.lookups, " ")
	w.mu.Unlock()
	if len(dialed) > 0 {
		t.Errorf("dialled: got %v, want nothing", dialed)
	}
	if strings.Contains(lookups, "evil") {
		t.Errorf("looked up: got %s, want no name that the ceiling excludes", lookups)
	}
	text := w.log.String()
	for _, line := range []string{
		`"decision":"deny","host":"node.example.com","port":10250,"closed":"node-address"`, `"host":"192.168.45.2","port":8888,"closed":"subnet-pool"`,
		`"host":"10.96.0.1","port":443,"closed":"egress-closed"`, `"host":"evil.example.com","port":443,"closed":"egress-ceiling"`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("log: got %s, want %s", text, line)
		}
	}
	// The rest stays open.
	for _, request := range []string{connect("203.0.113.1:80"), connect("198.51.100.8:80"), get("http://mixed-node.example.com/")} {
		if status, body := w.roundTrip(request); status != 200 {
			t.Errorf("%q: got %d %q, want 200", request, status, body)
		}
	}
	// What no rule names gets the ordinary answer, so that a guest cannot find out
	// which addresses the node has.
	for _, target := range []string{"198.51.100.9:22", "198.51.100.8:22", "192.168.45.2:443"} {
		if status, body := w.roundTrip(connect(target)); status != 403 || !strings.Contains(body, "no egress rule allows this host and port") {
			t.Errorf("%s: got %d %q, want that no rule allows it", target, status, body)
		}
	}
}

// TestNewNodeAddressIsClosed checks that an address which the node gets later is
// closed, together with the connections to it.
func TestNewNodeAddressIsClosed(t *testing.T) {
	w := newClosedWorld(t)
	revoked, revokedR := w.tunnel("203.0.113.10:80")
	kept, keptR := w.tunnel("203.0.113.11:80")
	defer revoked.Close()
	defer kept.Close()
	w.replaceRules(strings.Replace(closedFile, `"172.17.0.1/32"`, `"172.17.0.1/32","203.0.113.10/32"`, 1))
	if _, err := revokedR.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("tunnel to the new address: got %v, want EOF", err)
	}
	if status, body := w.roundTrip(connect("api.example.com:443")); status != 403 || !strings.Contains(body, "an address of this node") {
		t.Errorf("a name that resolves to it: got %d %q, want 403", status, body)
	}
	_, _ = io.WriteString(kept, "GET /x HTTP/1.1\r\nHost: kept\r\n\r\n")
	if status, _ := w.readResponse(keptR); status != 200 {
		t.Errorf("other tunnel: got %d, want 200", status)
	}
}
