// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

const (
	maxResolvers = 3 // as many as a C library uses
	portDNS      = 53
	typeA        = 1
	typeNS       = 2
	headerLength = 12
)

// readResolvers returns the name servers in a resolv.conf, or none if there is no
// such file.
func readResolvers(path string) []netip.AddrPort {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, _ := io.ReadAll(io.LimitReader(f, 64<<10)) // use what could be read
	var out []netip.AddrPort
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		server := netip.AddrPortFrom(addr, portDNS)
		if err == nil && len(out) < maxResolvers && !slices.Contains(out, server) {
			out = append(out, server)
		}
	}
	return out
}

// dns queries a name server, or the guest's own if the target has no address.
func (p prober) dns(ctx context.Context, t probe.Target) answer {
	if t.Addr.IsValid() {
		return p.query(ctx, netip.AddrPortFrom(t.Addr, t.Port))
	}
	if len(p.resolvers) == 0 {
		return answer{probe.NotTried, "the guest has no name server"}
	}
	answers := make([]answer, len(p.resolvers))
	var wg sync.WaitGroup
	for i, server := range p.resolvers {
		wg.Go(func() { answers[i] = p.query(ctx, server) })
	}
	wg.Wait()
	if i := slices.IndexFunc(answers, func(a answer) bool { return a.outcome == probe.Reached }); i >= 0 {
		return answers[i]
	}
	return answers[0]
}

// query asks for a name that contains the nonce, and for the root's name servers,
// which every internet resolver knows. A server that refuses both may have done so
// without forwarding them.
func (p prober) query(ctx context.Context, server netip.AddrPort) answer {
	conn, err := dial(ctx, "udp", server)
	if err != nil {
		return failed(err)
	}
	defer conn.Close()
	questions := [][]byte{
		question(1, p.nonce+".bottle-probe.test", typeA),
		question(2, "", typeNS),
	}
	refused := ""
	a := exchange(ctx, conn, questions, func(data []byte) bool {
		resolved, code := parseAnswer(data)
		if !resolved && code >= 0 {
			refused = fmt.Sprintf("answered with code %d and no record", code)
		}
		return resolved
	})
	if a.outcome != probe.Reached && refused != "" {
		return answer{probe.Refused, refused}
	}
	return a
}

// question returns a query for one name that requests recursion.
func question(id uint16, name string, kind uint16) []byte {
	out := binary.BigEndian.AppendUint16(nil, id)
	out = append(out, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	for label := range strings.SplitSeq(name, ".") {
		if label != "" {
			out = append(append(out, byte(len(label))), label...)
		}
	}
	out = append(out, 0)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(out, kind), 1)
}

// parseAnswer reports whether data is an answer to one of the questions with a
// record. code is -1 if data is not an answer to one of them.
func parseAnswer(data []byte) (resolved bool, code int) {
	if len(data) < headerLength || data[2]&0x80 == 0 {
		return false, -1
	}
	if id := binary.BigEndian.Uint16(data); id != 1 && id != 2 {
		return false, -1
	}
	code = int(data[3] & 0x0f)
	return code == 0 && binary.BigEndian.Uint16(data[6:]) > 0, code
}
