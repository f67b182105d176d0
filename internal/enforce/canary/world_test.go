// SPDX-License-Identifier: Apache-2.0

package canary

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"botbottle.dev/bottle-operator/internal/host"
)

const nonce = "0123456789abcdef0123456789abcdef"

// enough is how long tests wait for what must happen. Nothing depends on its value.
const enough = 30 * time.Second

// start runs canaries for the test and returns the channel that receives their hits.
func start(t *testing.T) (*Canaries, <-chan host.CanaryHit) {
	t.Helper()
	return startOn(t, "tcp", "udp", nil)
}

// startOn gives connections so much patience that a busy machine does not end them.
// change may be nil.
func startOn(t *testing.T, tcp, udp string, change func(*Canaries)) (*Canaries, <-chan host.CanaryHit) {
	t.Helper()
	hits := make(chan host.CanaryHit, 1000)
	c, err := open(Options{OnHit: func(hit host.CanaryHit) { hits <- hit }}, tcp, udp)
	if err != nil {
		t.Fatal(err)
	}
	c.patience = 2 * enough
	if change != nil {
		change(c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("got %v from Start, want nil", err)
			}
		case <-time.After(enough):
			t.Error("Start did not end with its context")
		}
	})
	return c, hits
}

func next(t *testing.T, hits <-chan host.CanaryHit) host.CanaryHit {
	t.Helper()
	select {
	case hit := <-hits:
		return hit
	case <-time.After(enough):
		t.Fatalf("no hit within %s", enough)
		return host.CanaryHit{}
	}
}

func none(t *testing.T, hits <-chan host.CanaryHit) {
	t.Helper()
	select {
	case hit := <-hits:
		t.Errorf("got another hit %v, want none", hit)
	case <-time.After(200 * time.Millisecond):
	}
}

func dial(t *testing.T, network, addr string, port uint16) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout(network, netip.AddrPortFrom(netip.MustParseAddr(addr), port).String(), enough)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(enough))
	return conn
}

func loopbacks(t *testing.T) []string {
	t.Helper()
	list := []string{"127.0.0.1", "127.0.0.7"}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		l.Close()
		return append(list, "::1")
	}
	t.Log("no IPv6 on this machine's loopback: only IPv4 is tested")
	return list
}

// wantHit compares a hit with the connection that made it.
func wantHit(t *testing.T, got host.CanaryHit, conn net.Conn, nonce string) {
	t.Helper()
	want := host.CanaryHit{
		Proto: conn.LocalAddr().Network(), Nonce: nonce, Interface: "lo",
		Local: netip.MustParseAddrPort(conn.RemoteAddr().String()), Remote: netip.MustParseAddrPort(conn.LocalAddr().String()),
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{}), cmpopts.IgnoreFields(host.CanaryHit{}, "Time")); diff != "" {
		t.Errorf("hit (-want +got):\n%s", diff)
	}
	if age := time.Since(got.Time); age < 0 || age > 2*enough {
		t.Errorf("got a hit from %s ago, want a recent one", age)
	}
}
