// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
	"botbottle.dev/bottle-operator/test/require"
)

// answerUDP starts a UDP server on loopback that answers each datagram with the
// result of do, or not at all if that is nil.
func answerUDP(t *testing.T, do func([]byte) []byte) uint16 {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(local(0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if out := do(buf[:n]); out != nil {
				_, _ = conn.WriteToUDPAddrPort(out, from)
			}
		}
	}()
	return uint16(conn.LocalAddr().(*net.UDPAddr).Port)
}

func closedUDP(t *testing.T) uint16 {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(local(0)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return uint16(conn.LocalAddr().(*net.UDPAddr).Port)
}

func within(t *testing.T, patience time.Duration, p prober, target probe.Target) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	started := time.Now()
	got := p.avoid(ctx, target)
	if took := time.Since(started); took >= ample {
		t.Errorf("took %s, want at most %s", took, patience)
	}
	return got
}

func TestUDP(t *testing.T) {
	_, canaryPort := canaries(t)
	var received, second atomic.Int32
	mute := func([]byte) []byte { received.Add(1); return nil }
	same := func(b []byte) []byte { return b }
	lossy := func(b []byte) []byte {
		if second.Add(1) == 1 {
			return nil
		}
		return b
	}
	for name, test := range map[string]struct {
		target probe.Target
		want   probe.Outcome
	}{
		"a server that answers":            {target("udp", answerUDP(t, same)), probe.Reached},
		"one that answers the second time": {target("udp", answerUDP(t, lossy)), probe.Reached},
		"one that sends nothing":           {target("udp", answerUDP(t, mute)), probe.TimedOut},
		"a closed port":                    {target("udp", closedUDP(t)), probe.Refused},
		"a canary":                         {canaryTarget("udp", canaryPort), probe.Reached},
		"an impostor":                      {canaryTarget("udp", answerUDP(t, same)), probe.TimedOut},
	} {
		patience := ample
		if test.want == probe.TimedOut {
			patience = hasty
		}
		if got := within(t, patience, prober{nonce: nonce}, test.target); got.outcome != test.want {
			t.Errorf("%s: got %v, want %s", name, got, test.want)
		}
	}
	for end := time.Now().Add(ample); received.Load() < 2 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	if got := received.Load(); got != 2 {
		t.Errorf("got %d datagrams, want 2", got)
	}
}

// reply answers questions of type kind (0 for any) with code and a number of
// records.
func reply(kind, code, records byte) func([]byte) []byte {
	return func(q []byte) []byte {
		if q[len(q)-3] != kind && kind != 0 {
			return nil
		}
		out := append([]byte(nil), q...)
		out[2], out[3], out[7] = out[2]|0x80, code, records
		return out
	}
}

func TestDNS(t *testing.T) {
	const refused, nameError = 5, 3
	reflect := func(b []byte) []byte { return b }
	stranger := func(b []byte) []byte { out := reply(0, 0, 1)(b); out[0] ^= 1; return out }
	short := func([]byte) []byte { return []byte{0, 1, 0x80, 0, 0, 0, 0} }
	for name, test := range map[string]struct {
		server func([]byte) []byte
		want   answer
	}{
		"resolves the name":     {reply(typeA, 0, 1), answer{probe.Reached, ""}},
		"knows only the root":   {reply(typeNS, 0, 13), answer{probe.Reached, ""}},
		"knows neither":         {reply(0, nameError, 0), answer{probe.Refused, "answered with code 3 and no record"}},
		"refuses":               {reply(0, refused, 0), answer{probe.Refused, "answered with code 5 and no record"}},
		"has no record":         {reply(0, 0, 0), answer{probe.Refused, "answered with code 0 and no record"}},
		"an error with records": {reply(0, nameError, 1), answer{probe.Refused, "answered with code 3 and no record"}},
		"reflects":              {reflect, answer{probe.TimedOut, ""}},
		"answers another query": {stranger, answer{probe.TimedOut, ""}},
		"cuts its answer short": {short, answer{probe.TimedOut, ""}},
		"sends nothing":         {func([]byte) []byte { return nil }, answer{probe.TimedOut, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := answerUDP(t, test.server)
			// A refusal counts only if nothing better follows.
			patience := map[probe.Outcome]time.Duration{probe.Reached: ample, probe.Refused: brief, probe.TimedOut: hasty}[test.want.outcome]
			if got := within(t, patience, prober{nonce: nonce}, target("dns", port)); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
			mute := answerUDP(t, func([]byte) []byte { return nil })
			own := prober{nonce: nonce, resolvers: []netip.AddrPort{local(mute), local(port)}}
			if got := within(t, brief, own, probe.Target{Kind: probe.KindResolver, Proto: "dns"}); (got.outcome == probe.Reached) != (test.want.outcome == probe.Reached) {
				t.Errorf("as the guest's second: got %v, want %v", got, test.want)
			}
		})
	}
	if got := within(t, ample, prober{nonce: nonce}, probe.Target{Kind: probe.KindResolver, Proto: "dns"}); got.outcome != probe.NotTried {
		t.Errorf("no name server: got %v, want not tried", got)
	}
}

func TestQuestion(t *testing.T) {
	want := "\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03abc\x04test\x00\x00\x01\x00\x01"
	if got := string(question(1, "abc.test", typeA)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	want = "\x00\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01"
	if got := string(question(2, "", typeNS)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReadResolvers(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string][]string{
		"nameserver 100.96.0.1\n": {"100.96.0.1:53"},
		"# nameserver 1.1.1.1\n; x\nsearch a b\noptions ndots:5\n\tnameserver  fd00::1 # x\nnameserver fd00::1":              {"[fd00::1]:53"},
		"nameserver\nnameserver localhost\nnameserver 1.2.3.4\r\nnameserver 1.2.3.5\nnameserver 1.2.3.6\nnameserver 1.2.3.7": {"1.2.3.4:53", "1.2.3.5:53", "1.2.3.6:53"},
		"\x00\xff": nil, "": nil,
	} {
		path := filepath.Join(dir, "resolv.conf")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, a := range readResolvers(path) {
			got = append(got, a.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	if got := readResolvers(dir + "/none"); got != nil {
		t.Errorf("no file: got %v, want none", got)
	}
	if got := readResolvers(dir); got != nil {
		t.Errorf("a folder: got %v, want none", got)
	}
}

func TestIsReply(t *testing.T) {
	v4, v6 := local(0).Addr(), netip.IPv6Loopback()
	as := func(data []byte, kind byte) []byte { return append([]byte{kind}, data[1:]...) }
	for name, test := range map[string]struct {
		addr netip.Addr
		data []byte
		want bool
	}{
		"a reply":                {v4, as(echo(v4, nonce), 0), true},
		"a reply over IPv6":      {v6, as(echo(v6, nonce), 129), true},
		"the echo itself":        {v4, echo(v4, nonce), false},
		"the echo over IPv6":     {v6, echo(v6, nonce), false},
		"a reply of IPv4's kind": {v6, as(echo(v6, nonce), 0), false},
		"a reply to another":     {v4, as(echo(v4, strings.Repeat("f", 32)), 0), false},
		"unreachable":            {v4, as(echo(v4, nonce), 3), false},
		"too short":              {v4, make([]byte, 8), false},
		"nothing":                {v4, nil, false},
	} {
		if got := isReply(test.addr, test.data, nonce); got != test.want {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

func TestICMP(t *testing.T) {
	require.Root(t)
	addrs := []string{"127.0.0.1"}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		l.Close()
		addrs = append(addrs, "::1")
	}
	for _, addr := range addrs {
		if got := within(t, ample, prober{nonce: nonce}, probe.Target{Kind: probe.KindGateway, Proto: "icmp", Addr: netip.MustParseAddr(addr)}); got.outcome != probe.Reached {
			t.Errorf("%s: got %v, want reached", addr, got)
		}
	}
}
