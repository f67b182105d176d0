// SPDX-License-Identifier: Apache-2.0

// Package canary implements host.Canaries: a TCP listener and a UDP socket on
// all addresses of the node that report every hit. A canary answers a nonce with
// probe's greeting, and does not answer anything else. The package does not
// judge hits.
package canary

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// maxAddresses bounds the addresses that a node can add to a proof.
	maxAddresses = 256
	// retryPause is the pause after a temporary failure, for example when no
	// file descriptors are left.
	retryPause = 100 * time.Millisecond
)

// Options configure New.
type Options struct {
	// OnHit is called with each hit, one at a time and before the canary
	// answers, so that every greeted prober has been reported. It is not called
	// for a repetition within a second: a hit with the same protocol, canary
	// address, remote address, interface and nonce. It must return soon.
	OnHit func(host.CanaryHit)
	// Now returns the time; nil means time.Now.
	Now func() time.Time
}

// Canaries implements host.Canaries. New reserves its ports, and Start answers
// on them.
type Canaries struct {
	tcp   net.Listener
	udp   *net.UDPConn
	onHit func(host.CanaryHit)
	now   func() time.Time
	slots slots
	// patience is the constant; tests set another one before Start.
	patience time.Duration

	mu     sync.Mutex
	recent recent
}

var _ host.Canaries = (*Canaries)(nil)

// New opens the canaries on two ports that the kernel picks, for both IPv6 and
// IPv4, or only for IPv4 if the kernel has no IPv6. Close releases the ports, and
// so does Start when it returns.
func New(o Options) (*Canaries, error) { return open(o, "tcp", "udp") }

func open(o Options, tcp, udp string) (*Canaries, error) {
	c := &Canaries{onHit: o.OnHit, now: o.Now, patience: patience, recent: recent{}}
	if c.onHit == nil {
		return nil, errors.New("canaries: no function to report hits to")
	}
	if c.now == nil {
		c.now = time.Now
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false) // a canary needs no second path
	var err error
	if c.tcp, err = config.Listen(context.Background(), tcp, ":0"); err != nil {
		return nil, fmt.Errorf("canary over TCP: %w", err)
	}
	if c.udp, err = net.ListenUDP(udp, &net.UDPAddr{}); err != nil {
		c.tcp.Close()
		return nil, fmt.Errorf("canary over UDP: %w", err)
	}
	if err := requestPacketInfo(c.udp); err != nil {
		c.Close()
		return nil, fmt.Errorf("canary over UDP: %w", err)
	}
	// Connections inherit the option from their listener.
	if err := requestPacketInfo(c.tcp.(*net.TCPListener)); err != nil {
		c.Close()
		return nil, fmt.Errorf("canary over TCP: %w", err)
	}
	return c, nil
}

// Ports implements host.Canaries.
func (c *Canaries) Ports() (tcp, udp uint16) {
	return uint16(c.tcp.Addr().(*net.TCPAddr).Port), uint16(c.udp.LocalAddr().(*net.UDPAddr).Port)
}

// Close releases the ports. A running Start returns.
func (c *Canaries) Close() {
	c.tcp.Close()
	_ = c.udp.Close() // it fails only if the socket is already closed
}

// Start answers until ctx ends, then closes everything and returns nil. An error
// means that a canary has died, so that its silence would no longer prove
// anything.
func (c *Canaries) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, c.Close)()
	defer c.Close()
	var g errgroup.Group
	g.Go(func() error { defer cancel(); return c.serveTCP(ctx) })
	g.Go(func() error { defer cancel(); return c.serveUDP(ctx) })
	return g.Wait()
}

// arrival describes how a connection or datagram arrived at a canary.
type arrival struct {
	proto         string
	local, remote netip.AddrPort
	ifindex       int // of the receiving interface; 0 if not known
}

// report reports a hit, unless the same hit was reported within the last second.
func (c *Canaries) report(a arrival, nonce string) {
	t := host.CanaryHit{Time: c.now(), Proto: a.proto, Local: plain(a.local), Remote: plain(a.remote), Nonce: nonce}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.recent.add(t, a.ifindex) {
		t.Interface = c.interfaceName(a.ifindex)
		c.onHit(t)
	}
}

// interfaceName returns the interface's present name, or "" if the interface no
// longer exists. The kernel does not reuse the index of a deleted interface for
// the next one.
func (c *Canaries) interfaceName(index int) string {
	if index == 0 {
		return ""
	}
	raw, err := c.udp.SyscallConn()
	if err != nil {
		return ""
	}
	var name string
	_ = raw.Control(func(fd uintptr) { name = ifName(int(fd), index) }) // "" if the socket is closed
	return name
}

// plain returns an address in the form in which addresses are compared: unmapped
// from IPv6, and without a zone.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// pause waits after a temporary failure and returns true. It returns false if
// the failure is permanent or ctx ended: the canary must then stop.
func pause(ctx context.Context, err error) bool {
	for _, temporary := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED, unix.EINTR} {
		if !errors.Is(err, temporary) {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryPause):
		}
		return ctx.Err() == nil
	}
	return false
}

// Addresses implements host.Canaries. It returns at most 256 addresses, IPv4
// first.
func (c *Canaries) Addresses() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("the node's addresses: %w", err)
	}
	return pickAddresses(list), nil
}

func pickAddresses(list []net.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if addr := prefix.Addr().Unmap(); addr.IsGlobalUnicast() {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	out = slices.Compact(out)
	return out[:min(len(out), maxAddresses)]
}

// IsOwn implements host.Canaries.
func (c *Canaries) IsOwn(a netip.Addr) (bool, error) {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() {
		return true, nil
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return false, fmt.Errorf("the node's addresses: %w", err)
	}
	return slices.ContainsFunc(list, func(own net.Addr) bool {
		prefix, err := netip.ParsePrefix(own.String())
		return err == nil && prefix.Addr().Unmap().WithZone("") == a
	}), nil
}
