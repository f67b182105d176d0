// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"net"
	"net/netip"
)

// interfaceListener accepts only connections to the addresses that one network interface
// has at that moment, and closes all others at once. The interface need not exist yet.
// (Binding the listener to it instead would need the interface, and would refuse what the
// container itself sends to its address.)
type interfaceListener struct {
	net.Listener
	name string
}

func (l *interfaceListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || l.owns(conn.LocalAddr()) {
			return conn, err
		}
		_ = conn.Close()
	}
}

// owns reports whether the interface has the address. If it cannot be found out, the
// answer is no.
func (l *interfaceListener) owns(local net.Addr) bool {
	at, err := netip.ParseAddrPort(local.String())
	if err != nil {
		return false
	}
	link, err := net.InterfaceByName(l.name)
	if err != nil {
		return false
	}
	addresses, err := link.Addrs()
	if err != nil {
		return false
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == at.Addr().Unmap() {
			return true
		}
	}
	return false
}
