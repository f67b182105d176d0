// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// dialTimeout is how long a port may take to answer. It is short because the
// bundle is on a bridge of this node.
const dialTimeout = time.Second

// UnansweredPorts implements host.Bundles. A bundle's address is unique on the node, so
// the owner does not matter.
func (e *Engine) UnansweredPorts(ctx context.Context, _ host.Owner, ip netip.Addr, ports []int32) ([]int32, error) {
	silent := make([]bool, len(ports))
	var wg sync.WaitGroup
	for i, port := range ports {
		wg.Go(func() {
			silent[i] = !answers(ctx, netip.AddrPortFrom(ip, uint16(port)))
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var out []int32
	for i, port := range ports {
		if silent[i] {
			out = append(out, port)
		}
	}
	return out, nil
}

func answers(ctx context.Context, at netip.AddrPort) bool {
	dialer := net.Dialer{Timeout: dialTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", at.String())
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
