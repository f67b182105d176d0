// SPDX-License-Identifier: Apache-2.0

package surroundings

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/subnet"
)

func texts(s *Source) (out []string) {
	for _, r := range s.Reserved() {
		out = append(out, r.String())
	}
	return out
}

func wantReserved(t *testing.T, what string, s *Source, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, texts(s)); diff != "" {
		t.Errorf("%s: reserved networks (-want +got):\n%s", what, diff)
	}
}

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// Addresses and flags are known without waiting for anything.
func TestFixedNetworksAreKnownAtOnce(t *testing.T) {
	s := newSource(t, func(o *Options) {
		o.Fixed = []subnet.Reserved{{Network: netip.MustParsePrefix("192.168.64.0/18"), By: "--reserved-networks"}}
		o.Hosts = []Host{{"192.168.5.10", "the API server"}, {"::ffff:192.168.6.10", "a registry"}, {"127.0.0.1", "a proxy"}, {"fd00::1", "a registry"}, {"registry.example.com", "a registry"}}
		o.Resolve = func(context.Context, string) ([]netip.Addr, error) {
			t.Error("Resolve: got a call, want none before Run")
			return nil, nil
		}
	})
	wantReserved(t, "at the start", s, "192.168.5.10/32 (the API server)", "192.168.6.10/32 (a registry)", "192.168.64.0/18 (--reserved-networks)")
}

// A resolver that does not answer delays nobody, and one that lies gets only so far.
func TestNames(t *testing.T) {
	clock := testclock.NewFakeClock(time.Now())
	answers := map[string]func() ([]netip.Addr, error){
		"mirror.example.com":   func() ([]netip.Addr, error) { return addrs("192.168.7.1", "fd00::1", "127.0.0.1"), nil },
		"registry.example.com": func() ([]netip.Addr, error) { return nil, errors.New("no such host") },
	}
	s := newSource(t, func(o *Options) {
		o.Clock = clock
		o.Hosts = []Host{{"mirror.example.com", "a mirror"}, {"registry.example.com", "a registry"}, {"mirror.example.com", "a proxy"}}
		o.Resolve = func(ctx context.Context, name string) ([]netip.Addr, error) {
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > resolveTimeout {
				t.Errorf("Resolve(%s): got no deadline within %s", name, resolveTimeout)
			}
			return answers[name]()
		}
	})
	s.resolve(t.Context())
	wantReserved(t, "resolved", s, "192.168.7.1/32 (a mirror)", "192.168.7.1/32 (a proxy)")

	// Another address of the same site joins, and an answer that is missing changes nothing.
	answers["mirror.example.com"] = func() ([]netip.Addr, error) { return addrs("192.168.8.1"), nil }
	s.resolve(t.Context())
	answers["mirror.example.com"] = answers["registry.example.com"]
	clock.Step(keepAddress - time.Minute)
	s.resolve(t.Context())
	wantReserved(t, "later", s, "192.168.7.1/32 (a mirror)", "192.168.7.1/32 (a proxy)", "192.168.8.1/32 (a mirror)", "192.168.8.1/32 (a proxy)")
	clock.Step(2 * time.Minute)
	s.resolve(t.Context())
	wantReserved(t, "a day after the last answer", s)

	answers["registry.example.com"] = func() (out []netip.Addr, err error) {
		for i := range 255 {
			out = append(out, netip.AddrFrom4([4]byte{192, 168, byte(i), 1}))
		}
		return out, nil
	}
	answers["mirror.example.com"] = func() ([]netip.Addr, error) { return nil, nil }
	s.resolve(t.Context())
	if got := len(s.Reserved()); got != maxAddresses {
		t.Errorf("an answer with 255 addresses: got %d that count, want %d", got, maxAddresses)
	}
}

// Nothing but Run waits for a resolver.
func TestAHangingResolverBlocksNothing(t *testing.T) {
	asked := make(chan struct{})
	var once sync.Once
	s := newSource(t, func(o *Options) {
		o.Hosts = []Host{{"registry.example.com", "a registry"}, {"192.168.5.10", "the API server"}}
		o.Resolve = func(ctx context.Context, _ string) ([]netip.Addr, error) {
			once.Do(func() { close(asked) })
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	run(t, s)
	<-asked
	if hidden, _ := s.Inspect(host.Owner{UID: "u"}, netip.MustParsePrefix("192.168.5.0/24")); hidden != "192.168.5.10/32 (the API server)" {
		t.Errorf("Inspect: got %q, want the API server", hidden)
	}
	wantReserved(t, "while the resolver hangs", s, "192.168.5.10/32 (the API server)")
}

func TestResolversOfTheNode(t *testing.T) {
	dir := t.TempDir()
	conf := filepath.Join(dir, "resolv.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# nameserver 192.168.1.1\nsearch example.com\nnameserver 192.168.53.53\n\tnameserver 127.0.0.53 \nnameserver fe80::1%eth0\nnameserver nonsense\noptions edns0\nnameserver")
	s := newSource(t, func(o *Options) { o.ResolvConf = []string{conf, filepath.Join(dir, "absent")} })
	wantReserved(t, "at the start", s, "192.168.53.53/32 (a resolver of the node)")
	reports := make(chan string, 10)
	s.Subscribe(func(uid string) { reports <- uid })
	s.Inspect(host.Owner{UID: "near"}, netip.MustParsePrefix("192.168.9.0/24"))
	s.Inspect(host.Owner{UID: "far"}, netip.MustParsePrefix("192.168.10.0/24"))
	write("nameserver 192.168.9.9\n" + strings.Repeat("nameserver 10.0.0.1\n", 10000))
	s.readResolvers()
	wantReserved(t, "after a change", s, "10.0.0.1/32 (a resolver of the node)", "192.168.9.9/32 (a resolver of the node)")
	if got := <-reports; got != "near" || len(reports) != 0 {
		t.Errorf("reports: got %q and %d more, want only that about the Bottle in the resolver's network", got, len(reports))
	}
}

func node(name string, edit func(n *corev1.Node)) *corev1.Node {
	n := &corev1.Node{}
	n.Name = name
	edit(n)
	return n
}

func TestTheCluster(t *testing.T) {
	clock := testclock.NewFakeClock(time.Now())
	service, slice, cidr := &corev1.Service{}, &discoveryv1.EndpointSlice{}, &networkingv1.ServiceCIDR{}
	service.Namespace, service.Name = "default", "kubernetes"
	service.Spec.ClusterIPs = []string{"192.168.96.1", "fd00::1"}
	slice.Namespace, slice.Name = "default", "kubernetes"
	slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"192.168.5.10"}}, {Addresses: []string{"192.168.5.11"}}}
	for i := range 100 {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.0.0.%d", i)}})
	}
	cidr.Name = "kubernetes"
	cidr.Spec.CIDRs = []string{"192.168.96.0/20", "fd00::/112"}
	objects := []client.Object{service, slice, cidr,
		node("n1", func(n *corev1.Node) {
			n.Spec.PodCIDR, n.Spec.PodCIDRs = "192.168.32.0/24", []string{"192.168.32.0/24", "fd00:1::/64"}
			n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.1.11"}, {Type: corev1.NodeHostName, Address: "n1"}}
		}),
		node("liar", func(n *corev1.Node) {
			n.Spec.PodCIDRs = []string{"0.0.0.0/0", "128.0.0.0/1", "192.0.0.0/4", "nonsense"}
			for i := range 254 {
				n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: fmt.Sprintf("192.168.%d.1", i)})
			}
		}),
	}
	forbidden := ""
	api := fake.NewClientBuilder().WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			if name := fmt.Sprintf("%T", list); strings.Contains(name, forbidden) && forbidden != "" {
				return apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "", errors.New("no"))
			}
			return c.List(ctx, list, opts...)
		}}).Build()
	s := newSource(t, func(o *Options) { o.Clock = clock })
	if got := s.readCluster(t.Context(), api); got != clusterInterval {
		t.Errorf("next reading: got %s, want %s", got, clusterInterval)
	}
	got := texts(s)
	lies := slices.DeleteFunc(slices.Clone(got), func(r string) bool { return !strings.Contains(r, "Node liar") })
	truth := slices.DeleteFunc(slices.Clone(got), func(r string) bool { return !strings.HasPrefix(r, "192.168.") || strings.Contains(r, "Node liar") })
	if endpoints := strings.Count(strings.Join(got, " "), "(the API server)"); endpoints != maxEndpoints+1 {
		t.Errorf("addresses of the API server: got %d, want %d and the Service's", endpoints, maxEndpoints)
	}
	want := []string{
		"192.168.1.11/32 (an address of Node n1)", "192.168.5.10/32 (the API server)", "192.168.5.11/32 (the API server)",
		"192.168.32.0/24 (the Pod network of Node n1)", "192.168.96.0/20 (the Service network)", "192.168.96.1/32 (the API server)",
	}
	if diff := cmp.Diff(want, truth); diff != "" {
		t.Errorf("reserved networks (-want +got):\n%s", diff)
	}
	if len(lies) != maxOfNode || slices.ContainsFunc(lies, func(r string) bool { return !strings.Contains(r, "/32") }) {
		t.Errorf("of a node that lies: got %q, want %d addresses", lies, maxOfNode)
	}

	// What may no longer be read stays as it was last, and the rest is followed.
	forbidden = "NodeList"
	if err := api.Delete(t.Context(), cidr); err != nil {
		t.Fatal(err)
	}
	s.readCluster(t.Context(), api)
	if got := strings.Join(texts(s), " "); !strings.Contains(got, "Node n1") || strings.Contains(got, "the Service network") {
		t.Errorf("after nodes became unreadable: got %s, want Node n1 and no Service network", got)
	}

	forbidden = ""
	for i := range 100 {
		if err := api.Create(t.Context(), node(fmt.Sprintf("m%d", i), func(*corev1.Node) {})); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := s.readCluster(t.Context(), api), 102*nodeInterval; got != want {
		t.Errorf("next reading of 102 nodes: got %s, want %s", got, want)
	}
}

// The cluster is read before FollowCluster returns, and again and again.
func TestTheClusterIsFollowed(t *testing.T) {
	clock := testclock.NewFakeClock(time.Now())
	api := fake.NewClientBuilder().WithObjects(node("n1", func(n *corev1.Node) { n.Spec.PodCIDR = "192.168.32.0/24" })).Build()
	s := newSource(t, func(o *Options) { o.Clock = clock })
	s.FollowCluster(t.Context(), api)
	wantReserved(t, "at once", s, "192.168.32.0/24 (the Pod network of Node n1)")
	reports := make(chan string, 10)
	s.Subscribe(func(uid string) { reports <- uid })
	s.Inspect(host.Owner{UID: "u"}, netip.MustParsePrefix("192.168.33.0/24"))
	if err := api.Create(t.Context(), node("n2", func(n *corev1.Node) { n.Spec.PodCIDR = "192.168.33.0/24" })); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(patience)
	for !clock.HasWaiters() {
		select {
		case <-deadline:
			t.Fatal("nothing waits for the next reading")
		case <-time.After(time.Millisecond):
		}
	}
	clock.Step(clusterInterval)
	select {
	case <-reports:
	case <-deadline:
		t.Fatalf("got no report about the new Node's network; reserved are %q", texts(s))
	}
	if hidden, _ := s.Inspect(host.Owner{UID: "u"}, netip.MustParsePrefix("192.168.33.0/24")); hidden != "192.168.33.0/24 (the Pod network of Node n2)" {
		t.Errorf("hidden: got %q, want the Pod network of n2", hidden)
	}
}
