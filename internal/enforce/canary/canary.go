// SPDX-License-Identifier: Apache-2.0

// Package canary is the real host.Canaries: a TCP listener and a UDP socket on
// all of the node's addresses, that say who came to them. It answers a nonce
// with probe's greeting and everything else with nothing; it judges nobody.
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
	// maxAddresses bounds what a node's interfaces can add to a proof.
	maxAddresses = 256
	// retryPause is waited after a failure that passes, such as no file
	// descriptors being left.
	retryPause = 100 * time.Millisecond
)

// Options configure New.
type Options struct {
	// Touched is called with each touch, one at a time and before the canary
	// answers, so that a prober that was greeted was told of. Repetitions
	// within a second are left out: the same protocol, canary address, remote
	// address and nonce. It must return soon.
	Touched func(host.Touch)
	// Now is time.Now where nil.
	Now func() time.Time
}

// Canaries implements host.Canaries. From New on its ports are its own, and
// from Start on they answer.
type Canaries struct {
	tcp     net.Listener
	udp     *net.UDPConn
	touched func(host.Touch)
	now     func() time.Time
	places  places

	mu     sync.Mutex
	recent recent
}

var _ host.Canaries = (*Canaries)(nil)

// New opens the canaries on two ports that the kernel picks, for IPv6 and IPv4
// both; for IPv4 alone where the kernel has no IPv6. Start or Close gives them
// back.
func New(o Options) (*Canaries, error) { return open(o, "tcp", "udp") }

func open(o Options, tcp, udp string) (*Canaries, error) {
	c := &Canaries{touched: o.Touched, now: o.Now, recent: recent{}}
	if c.touched == nil {
		return nil, errors.New("canaries: nobody to tell of touches")
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
	// Connections inherit it from their listener.
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

// Close gives the ports back; a Start under way ends.
func (c *Canaries) Close() {
	c.tcp.Close()
	_ = c.udp.Close() // closed already, at worst
}

// Start answers until ctx ends, then closes everything and returns nil. An
// error means that a canary is dead: silence would prove nothing any more.
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

// arrival is how something came to a canary.
type arrival struct {
	proto         string
	local, remote netip.AddrPort
	ifindex       int // of the interface it was received on; 0 if not known
}

// report reports a touch, unless the same was reported just now.
func (c *Canaries) report(a arrival, nonce string) {
	t := host.Touch{Time: c.now(), Proto: a.proto, Local: plain(a.local), Remote: plain(a.remote), Nonce: nonce}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.recent.add(t, a.ifindex) {
		t.Interface = c.interfaceName(a.ifindex)
		c.touched(t)
	}
}

// interfaceName returns the interface's present name; "" if there is none any
// more. The kernel does not give the number of a deleted interface to the next
// one.
func (c *Canaries) interfaceName(index int) string {
	if index == 0 {
		return ""
	}
	raw, err := c.udp.SyscallConn()
	if err != nil {
		return ""
	}
	var name string
	_ = raw.Control(func(fd uintptr) { name = ifName(int(fd), index) }) // "" if it is closed
	return name
}

// plain is an address as others compare it: not mapped into IPv6, without
// zone.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// pause waits after a failure that passes; false means that the canary is to
// end, with that error.
func pause(ctx context.Context, err error) bool {
	for _, passing := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED, unix.EINTR} {
		if !errors.Is(err, passing) {
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

// Addresses implements host.Canaries: at most 256, IPv4 first.
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
