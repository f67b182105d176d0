// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/nodeaddr"
	"botbottle.dev/bottle-operator/test/require"
)

// nodeAddresses are those of the node that onNode makes. The registry is at
// the first, which alone is allowed.
var nodeAddresses = []string{"10.99.0.1/32", "10.77.0.11/32", "192.168.44.1/32", "169.254.169.254/32", "100.100.100.200/32", "fd00:7::11/128", "fd00:ec2::254/128"}

// onNode runs the rest of the test in a process of its own, in a network
// namespace with nodeAddresses. It returns false in the process that waits for
// the other one.
func onNode(t *testing.T) bool {
	t.Helper()
	require.Root(t)
	const inside = "IMAGE_TEST_ON_NODE"
	if os.Getenv(inside) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("on the node: %v\n%s", err, out)
		}
		return false
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	for _, a := range nodeAddresses {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(lo, addr); err != nil {
			t.Fatalf("%s: %v", a, err)
		}
	}
	return true
}

func addrOf(prefix string) netip.Addr { return netip.MustParsePrefix(prefix).Addr() }

// inner is a TLS service that only the node reaches. It answers everything with
// the same words, as JSON that a registry or a token server could send.
type inner struct {
	*httptest.Server
	contacts atomic.Int64
}

const innerWords = "InnerWords"

func newInner(t *testing.T, at string, pki authority) *inner {
	t.Helper()
	s := &inner{}
	s.Server = pki.server(t, at, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.contacts.Add(1)
		w.Header().Set("WWW-Authenticate", innerWords)
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write([]byte(`{"token":"x","errors":[{"code":"` + innerWords + `","message":"` + innerWords + `"}]}`))
	}))
	return s
}

// hops are the requests of a pull at which a registry can send the agent
// elsewhere.
var hops = map[string]func(r *http.Request) bool{
	"the first request": func(r *http.Request) bool { return r.URL.Path == "/v2/" },
	"the token server":  func(r *http.Request) bool { return r.URL.Path == "/token" },
	"the manifest":      func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/manifests/1") },
	"the index's image": func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/sha256:") },
	"a blob":            func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") },
}

// redirecting makes the registry require a token and answer one hop with a
// redirect.
func redirecting(s *server, hop func(r *http.Request) bool, to string) {
	s.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if hop(r) {
			http.Redirect(w, r, to, http.StatusTemporaryRedirect)
			return true
		}
		return token(s, w, r)
	})
}

// A registry sends the agent to a service inside, at each hop of a pull. The service is
// never contacted, whatever its address is, and the message is the same whether anything
// listens there or not.
func TestRedirectsIntoTheNode(t *testing.T) {
	if !onNode(t) {
		return
	}
	pki := newAuthority(t)
	w := newWorldAt(t, pki, addrOf(nodeAddresses[0]).String())
	w.reg.push(t, "demo:1", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: newImage(t, "amd64", "one")}))
	w.reg.setFault(nil)
	for _, own := range append([]string{"127.0.0.1/8", "::1/128"}, nodeAddresses[1:]...) {
		service := newInner(t, addrOf(own).String(), pki)
		port := netip.MustParseAddrPort(service.Listener.Addr().String()).Port()
		for hop, at := range hops {
			t.Run(own+" at "+hop, func(t *testing.T) {
				w.t = t
				texts := map[string]bool{}
				for _, p := range []uint16{port, 9} {
					to := netip.AddrPortFrom(addrOf(own), p).String()
					redirecting(w.reg, at, "https://"+to+"/secret?x="+innerWords)
					failed := w.wantFailed(w.request("demo:1", "a"), "registry "+w.reg.host()+" sends the agent to a host whose address "+addrOf(own).String()+" may not be used: it is ", "--registry-allow-networks")
					texts[failed.Error()] = true
					w.clock.Step(lastBackoff)
				}
				if len(texts) != 1 {
					t.Errorf("got %v, want the same whether the port is open or not", texts)
				}
				if n := service.contacts.Load(); n > 0 {
					t.Errorf("got %d requests at the inner service, want none", n)
				}
				for text := range texts {
					if strings.Contains(text, innerWords) {
						t.Errorf("got %q, want nothing of the redirect or the answer", text)
					}
				}
			})
		}
		// The realm names it, without a redirect.
		w.t = t
		w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
			rw.Header().Set("WWW-Authenticate", `Bearer realm="`+service.URL+`/token?`+innerWords+`",service="s"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return true
		})
		failed := w.wantFailed(w.request("demo:1", "a"), "a host whose address "+addrOf(own).String()+" may not be used")
		// A Bottle names it itself.
		w.wantFailed(host.ImageRequest{Reference: strings.TrimPrefix(service.URL, "https://") + "/demo:1", For: "a"}, "its address "+addrOf(own).String()+" may not be used")
		w.clock.Step(lastBackoff)
		if n := service.contacts.Load(); n > 0 || strings.Contains(failed.Error(), innerWords) {
			t.Errorf("realm: got %d requests and %v, want none", n, failed)
		}
	}
	redirecting(w.reg, func(*http.Request) bool { return false }, "")
	w.want(w.request("demo:1", "a"))
}

// A name that resolves to the node, other ways to write its addresses, chains
// of redirects and other schemes do not reach a service on the node either.
func TestOtherWaysIntoTheNode(t *testing.T) {
	if !onNode(t) {
		return
	}
	pki := newAuthority(t)
	w := newWorldAt(t, pki, addrOf(nodeAddresses[0]).String())
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	service := newInner(t, "0.0.0.0", pki)
	port := netip.MustParseAddrPort(service.Listener.Addr().String()).Port()
	for _, to := range []string{
		"localhost", "10.77.0.11", "[::ffff:10.77.0.11]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "[64:ff9b::10.77.0.11]", "[64:ff9b::127.0.0.1]",
		"[2002:a4d:b::1]", "[::10.77.0.11]", "[fe80::1%25lo]", "224.0.0.1", "255.255.255.255", "[ff02::1]", "127.1.2.3",
	} {
		for _, scheme := range []string{"https", "http"} {
			hop := 0
			w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.HasPrefix(r.URL.Path, "/v2/demo/") && !strings.HasPrefix(r.URL.Path, "/again") {
					return false
				}
				if hop++; hop%3 != 0 {
					http.Redirect(rw, r, "/again", http.StatusFound)
					return true
				}
				http.Redirect(rw, r, scheme+"://"+to+":"+netip.AddrPortFrom(netip.IPv4Unspecified(), port).String()[len("0.0.0.0:"):]+"/", http.StatusFound)
				return true
			})
			w.wantFailed(w.request("demo:1", "a"), "may not be used: it is ")
			w.clock.Step(lastBackoff)
		}
	}
	w.wantFailed(host.ImageRequest{Reference: "localhost:" + netip.AddrPortFrom(netip.IPv4Unspecified(), port).String()[len("0.0.0.0:"):] + "/demo:1", For: "a"}, "may not be used: it is loopback")
	if n := service.contacts.Load(); n > 0 {
		t.Errorf("got %d requests at the inner service, want none", n)
	}
}

// An address counts as the node's own from the moment when the node has it.
func TestAddressesAreReadAtEachConnection(t *testing.T) {
	if !onNode(t) {
		return
	}
	p := addresses{}
	late := netip.MustParseAddr("198.51.100.7")
	if err := p.check(late); err != nil {
		t.Fatalf("before: got %v, want nil", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := netlink.ParseAddr(late.String() + "/32")
	if err := netlink.AddrAdd(lo, addr); err != nil {
		t.Fatal(err)
	}
	var refused *refusedError
	if err := p.check(late); !errors.As(err, &refused) || refused.why != nodeItself {
		t.Errorf("after: got %v, want it refused", err)
	}
}

// An address that only leads to the node, such as one that its cloud translates, is
// refused like one that an interface has.
func TestAddressesOfNoInterface(t *testing.T) {
	public := netip.MustParseAddr("203.0.113.80")
	w := newWorld(t)
	w.Store.o.NodeAddresses = func() []netip.Addr { return []netip.Addr{public} }
	for _, spelling := range []string{"203.0.113.80", "::ffff:203.0.113.80", "64:ff9b::203.0.113.80", "2002:cb00:7150::1"} {
		var refused *refusedError
		if err := newDialer(w.Store.addresses()).check(netip.MustParseAddr(spelling)); !errors.As(err, &refused) || refused.why != nodeItself {
			t.Errorf("%s: got %v, want it refused", spelling, err)
		}
	}
	if err := w.Store.addresses().check(netip.MustParseAddr("203.0.113.81")); err != nil {
		t.Errorf("another address: got %v, want nil", err)
	}
}

func TestAllowedNetworks(t *testing.T) {
	own, err := nodeaddr.Local()
	if err != nil || len(own) == 0 {
		t.Fatal(own, err)
	}
	p := addresses{allowed: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("fe80::/64"), netip.MustParsePrefix("169.254.7.0/24")}}
	for addr, want := range map[string]string{
		"127.0.0.1": "", "::ffff:127.0.0.1": "", "127.0.0.2": "loopback", "::1": "loopback", "fe80::1%eth0": "", "169.254.7.9": "",
		"169.254.169.254": "link-local", "168.63.129.16": "metadata", "fd00:ec2::254": "metadata", "64:ff9b::127.0.0.1": "loopback",
		"64:ff9b::a9fe:a9fe": "link-local", "2002:7f00:1::1": "loopback", "0.0.0.0": "this host", "::": "unspecified", "224.0.0.9": "multicast", "ff05::2": "multicast",
		"255.255.255.255": "broadcast", "203.0.113.7": "", "10.200.3.4": "", "2001:db8::7": "",
	} {
		err := p.check(netip.MustParseAddr(addr))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", addr, err, want)
		}
	}
	for _, o := range own {
		if err := (addresses{}).check(o); err == nil {
			t.Errorf("the node's own %s: got nil, want it refused", o)
		}
	}
}

// What happens at an address that no flag names looks the same whether a port
// there is closed, silent, or open without TLS or with an unknown certificate.
func TestFailuresRevealNoPorts(t *testing.T) {
	if !onNode(t) {
		return
	}
	const lan = "10.123.0.7"
	world := make(chan func(f func()), 1)
	neighbour(t, lan, world)
	w := newWorldAt(t, newAuthority(t), addrOf(nodeAddresses[0]).String())
	inWorld := <-world
	var open []string
	inWorld(func() {
		tls := httptest.NewUnstartedServer(http.NotFoundHandler())
		tls.Listener.Close()
		tls.Listener = listenAt(t, lan)
		tls.Config.ErrorLog = quiet
		tls.StartTLS()
		t.Cleanup(tls.Close)
		clear := httptest.NewUnstartedServer(http.NotFoundHandler())
		clear.Listener.Close()
		clear.Listener = listenAt(t, lan)
		clear.Start()
		t.Cleanup(clear.Close)
		closing := listenAt(t, lan)
		t.Cleanup(func() { closing.Close() })
		go func() {
			for {
				conn, err := closing.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
		open = append(open, tls.Listener.Addr().String(), clear.Listener.Addr().String(), closing.Addr().String())
	})
	texts := map[string]bool{}
	for _, at := range append(open, lan+":9") {
		failed := w.wantFailed(host.ImageRequest{Reference: at + "/demo:1", For: "a"})
		texts[strings.ReplaceAll(failed.Error(), at, "IT")] = true
		w.clock.Step(time.Minute)
	}
	if len(texts) != 1 {
		t.Errorf("got %d texts, want one: %v", len(texts), texts)
	}
}
