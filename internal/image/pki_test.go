// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var quiet = log.New(io.Discard, "", 0)

// authority is a certificate that is trusted for every address of the node and
// for localhost, and its key.
type authority struct {
	cert tls.Certificate
	file string
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP("::1"), net.IPv4zero, net.IPv6zero},
	}
	for _, a := range nodeAddresses {
		template.IPAddresses = append(template.IPAddresses, addrOf(a).AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return authority{cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file: file}
}

// server starts a TLS server at the address, with a certificate for it.
func (a authority) server(t *testing.T, at string, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener = listenAt(t, at)
	s.Config.ErrorLog = quiet
	s.TLS = &tls.Config{Certificates: []tls.Certificate{a.cert}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func listenAt(t *testing.T, at string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(at, "0"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// newWorldAt is like newWorld, with a registry at this address, which alone is
// allowed.
func newWorldAt(t *testing.T, pki authority, at string) *world {
	t.Helper()
	s := &server{private: map[string][]string{}, registry: registry.New(registry.Logger(quiet))}
	s.Server = pki.server(t, at, s)
	addr := netip.MustParseAddr(at)
	w := newWorld(t, func(o *Options) {
		o.AllowNetworks, o.CAFile = []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())}, pki.file
	})
	w.reg = s
	return w
}

// neighbour makes another network namespace, which the test's process reaches
// at an address. It sends a function that runs other functions in that namespace.
func neighbour(t *testing.T, at string, ready chan<- func(f func())) {
	t.Helper()
	todo := make(chan func())
	t.Cleanup(func() { close(todo) })
	moved := make(chan int)
	go func() {
		runtime.LockOSThread() // the thread, and the namespace, end with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
		if lo, err := netlink.LinkByName("lo"); err != nil || netlink.LinkSetUp(lo) != nil {
			panic("no loopback")
		}
		moved <- unix.Gettid()
		for f := range todo {
			f()
		}
	}()
	run := func(f func()) {
		done := make(chan struct{})
		todo <- func() { defer close(done); f() }
		<-done
	}
	thread := <-moved
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan0"}, PeerName: "lan1", PeerNamespace: netlink.NsPid(thread)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	up := func(name, address string) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			t.Fatal(err)
		}
	}
	up("lan0", "10.123.0.1/24")
	run(func() { up("lan1", at+"/24") })
	ready <- run
}
