// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

// BundlesFixture is an implementation of host.Bundles, its networks, and its
// environment.
type BundlesFixture struct {
	NetworksFixture
	Bundles host.Bundles
	// Image is an image on the node other than the built-in one. Its containers
	// listen on 8888, 9418 and 9100, but not on 9099.
	Image string
	// RulesDir is a folder for the built-in image's rules; empty if there is
	// none.
	RulesDir string
	// PutContainer creates a container with this name. If owner has a UID, the
	// container has its labels.
	PutContainer func(t *testing.T, name string, owner host.Owner)
	// Containers returns the names of all containers.
	Containers func(t *testing.T) []string
	// Exit makes the owner's container end with exit code 137, as after SIGKILL.
	Exit func(t *testing.T, owner host.Owner)
	// Env returns the environment of the owner's container. It may have other
	// entries than those of the spec.
	Env func(t *testing.T, owner host.Owner) []string
	// Decide makes the owner's running container log the decision as the
	// built-in bundle does, among lines that are not decisions. Docker sets the
	// time.
	Decide func(t *testing.T, owner host.Owner, d host.Decision)
	// PutFile and PutLink put a file or a symbolic link into the owner's
	// running container, with the folders above it.
	PutFile func(t *testing.T, owner host.Owner, path string, data []byte)
	PutLink func(t *testing.T, owner host.Owner, path, target string)
	// Run does what the kubelet does: it makes the owner's container run as in spec, in
	// the Pod that Place made, and replaces a container that differs. It is nil if
	// EnsureBundle does all that. PutContainer and Env are not needed then, and
	// Containers returns only those that run.
	Run func(t *testing.T, spec host.BundleSpec)
}

// bundleTest is a test of the suite.
type bundleTest struct {
	name string
	run  func(t *testing.T, f BundlesFixture)
}

// bundleTests are the tests of every implementation.
var bundleTests = []bundleTest{
	{"create, find, stop, start, delete", bundleLife},
	{"built-in image", bundleBuiltIn},
	{"a container that exited is started", bundleExited},
	{"moves with its network", bundleMoves},
	{"ports", bundlePorts},
	{"watch", bundleWatch},
	{"follow decisions", bundleDecisions},
	{"end of decisions", bundleDecisionsEnd},
	{"read files", bundleFiles},
	{"folders", bundleFolders},
	{"docker down", bundleDown},
}

// TestBundles runs the suite, with a new fixture for every test. The implementation makes
// and starts containers.
func TestBundles(t *testing.T, fixture func(t *testing.T) BundlesFixture) {
	runBundleTests(t, fixture, append([]bundleTest{
		{"a different container is replaced", bundleReplaced},
		{"a foreign container is reported and not changed", bundleForeign},
		{"env is passed on and in no error", bundleEnv},
		{"missing image", bundleNoImage},
		{"limits", bundleLimits},
		{"stop while docker is down", bundleStopDown},
	}, bundleTests...))
}

func runBundleTests(t *testing.T, fixture func(t *testing.T) BundlesFixture, tests []bundleTest) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, fixture(t)) })
	}
}

// newBundle creates a network and returns the spec of a bundle on it. Both are
// deleted at the end of the test.
func newBundle(t *testing.T, f BundlesFixture, third string) host.BundleSpec {
	t.Helper()
	n := f.place(t, newNetwork(newOwner("demo"), third))
	mustDo(t, "ensure network", f.Networks.EnsureNetwork(t.Context(), n))
	t.Cleanup(func() {
		// The test's own context has ended.
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := f.Bundles.DeleteBundle(ctx, n.Owner); err != nil && !errors.Is(err, host.ErrUnavailable) {
			t.Errorf("delete bundle: got %v, want nil", err)
		}
		if err := f.Networks.DeleteNetwork(ctx, n.Owner); err != nil && !errors.Is(err, host.ErrUnavailable) {
			t.Errorf("delete network: got %v, want nil", err)
		}
	})
	return host.BundleSpec{Owner: n.Owner, Image: f.Image, IP: n.Gateway.Next()}
}

func bundleLife(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "60")
	if _, err := f.Bundles.InspectBundle(t.Context(), spec.Owner); !errors.Is(err, host.ErrNotFound) {
		t.Fatalf("inspect before: got %v, want ErrNotFound", err)
	}
	mustDo(t, "stop an absent bundle", f.Bundles.StopBundle(t.Context(), spec.Owner))
	mustDo(t, "delete an absent bundle", f.Bundles.DeleteBundle(t.Context(), spec.Owner))

	first := wantRunning(t, f, spec)
	again := wantRunning(t, f, spec)
	if again.ContainerID != first.ContainerID {
		t.Errorf("ensure again: got container %s, want the same %s", again.ContainerID, first.ContainerID)
	}
	list, err := f.Bundles.ListBundles(t.Context())
	mustDo(t, "list", err)
	list = slices.DeleteFunc(list, func(b host.Bundle) bool { return b.Owner != spec.Owner })
	listed := first
	listed.StartedAt = time.Time{} // ListBundles does not set it
	if diff := cmp.Diff([]host.Bundle{listed}, list, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	for range 2 {
		mustDo(t, "stop", f.Bundles.StopBundle(t.Context(), spec.Owner))
		if f.Run != nil {
			continue // the kubelet would start it again
		}
		b, err := f.Bundles.InspectBundle(t.Context(), spec.Owner)
		mustDo(t, "inspect", err)
		if b.Running || b.ContainerID != first.ContainerID {
			t.Errorf("stopped: got %+v, want container %s not running", b, first.ContainerID)
		}
	}
	if b := wantRunning(t, f, spec); b.ContainerID != first.ContainerID {
		t.Errorf("started: got container %s, want the same %s", b.ContainerID, first.ContainerID)
	}
	for range 2 {
		mustDo(t, "delete", f.Bundles.DeleteBundle(t.Context(), spec.Owner))
		if got := count(f.Containers(t), spec.Owner.ID()); got != 0 {
			t.Errorf("containers left: got %d, want 0", got)
		}
	}
}

// bundleLimits checks that other limits neither replace nor restart a container.
func bundleLimits(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "76")
	first := wantRunning(t, f, spec)
	spec.Limits = machinesize.Bundle{CPUMillis: 200, MemoryBytes: 64 << 20}
	if b := wantRunning(t, f, spec); b != first {
		t.Errorf("other limits: got %+v, want the same container %+v", b, first)
	}
}

func bundleBuiltIn(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "61")
	spec.Image, spec.RulesDir = "", f.RulesDir
	b := wantRunning(t, f, spec)
	if b.Image == "" {
		t.Error("image: got none, want the built-in one's reference")
	}
	wantPorts(t, f, spec, []int32{8888, 9418}, []int32{9418})
}

func bundleReplaced(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "62")
	old := wantRunning(t, f, spec)
	for name, change := range map[string]func(*host.BundleSpec){
		"env":   func(s *host.BundleSpec) { s.Env = []string{"A=1"} },
		"value": func(s *host.BundleSpec) { s.Env = []string{"A=2"} },
		"ip":    func(s *host.BundleSpec) { s.IP = s.IP.Next() },
		"image": func(s *host.BundleSpec) { s.Image = "" },
	} {
		change(&spec)
		b := wantRunning(t, f, spec)
		if b.ContainerID == old.ContainerID {
			t.Errorf("%s changed: got the same container, want another", name)
		}
		old = b
	}
	if got := count(f.Containers(t), spec.Owner.ID()); got != 1 {
		t.Errorf("containers: got %d, want 1", got)
	}
}

func bundleExited(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "63")
	first := wantRunning(t, f, spec)
	f.Exit(t, spec.Owner)
	var b host.Bundle
	eventually(t, "the exit is observed", func() bool {
		var err error
		b, err = f.Bundles.InspectBundle(t.Context(), spec.Owner)
		mustDo(t, "inspect", err)
		return !b.Running
	})
	if b.State != "exited (137)" {
		t.Errorf("state: got %q, want %q", b.State, "exited (137)")
	}
	list, err := f.Bundles.ListBundles(t.Context())
	mustDo(t, "list", err)
	if !slices.ContainsFunc(list, func(l host.Bundle) bool { return l.Owner == spec.Owner && l.State == b.State && !l.Running }) {
		t.Errorf("list: got %+v, want one %q", list, b.State)
	}
	if b := wantRunning(t, f, spec); (b.ContainerID != first.ContainerID) != (f.Run != nil) {
		t.Errorf("started: got container %s after %s, want the same, or another one of the kubelet", b.ContainerID, first.ContainerID)
	}
}

// bundleMoves replaces the network of a bundle, first of a running one, then of a
// stopped one.
func bundleMoves(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "64")
	wantRunning(t, f, spec)
	for _, third := range []string{"65", "66"} {
		n := newNetwork(spec.Owner, third)
		mustDo(t, "ensure another subnet", f.Networks.EnsureNetwork(t.Context(), n))
		spec.IP = n.Gateway.Next()
		wantRunning(t, f, spec)
		wantPorts(t, f, spec, []int32{8888}, nil)
		mustDo(t, "stop", f.Bundles.StopBundle(t.Context(), spec.Owner))
	}
}

func bundleForeign(t *testing.T, f BundlesFixture) {
	for name, change := range map[string]func(*host.Owner){
		"without labels":     func(o *host.Owner) { *o = host.Owner{} },
		"of another cluster": func(o *host.Owner) { o.Cluster = "cluster-2" },
	} {
		t.Run(name, func(t *testing.T) {
			spec := newBundle(t, f, "67")
			theirs := spec.Owner
			change(&theirs)
			f.PutContainer(t, spec.Owner.ID(), theirs)
			_, err := f.Bundles.InspectBundle(t.Context(), spec.Owner)
			wantConflict(t, "inspect", err, spec.Owner.ID())
			_, err = f.Bundles.EnsureBundle(t.Context(), spec)
			wantConflict(t, "ensure", err, spec.Owner.ID())
			mustDo(t, "stop", f.Bundles.StopBundle(t.Context(), spec.Owner))
			mustDo(t, "delete", f.Bundles.DeleteBundle(t.Context(), spec.Owner))
			if got := count(f.Containers(t), spec.Owner.ID()); got != 1 {
				t.Errorf("foreign containers left: got %d, want 1", got)
			}
		})
	}
}

func bundleNoImage(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "69")
	spec.Image = "botbottle.dev/nobody-has-this:1"
	_, err := f.Bundles.EnsureBundle(t.Context(), spec)
	if !errors.Is(err, host.ErrNotFound) || !strings.Contains(err.Error(), spec.Image) {
		t.Errorf("ensure: got %v, want ErrNotFound that names the image", err)
	}
	if got := count(f.Containers(t), spec.Owner.ID()); got != 0 {
		t.Errorf("containers: got %d, want 0", got)
	}
}

func bundlePorts(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "70")
	wantPorts(t, f, spec, []int32{8888}, []int32{8888})
	wantRunning(t, f, spec)
	wantPorts(t, f, spec, []int32{9099, 8888, 9418, 9100, 1}, []int32{9099, 1})
	f.stop(t, spec.Owner)
	wantPorts(t, f, spec, []int32{8888}, []int32{8888})
}

func bundleDown(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "73")
	wantRunning(t, f, spec)
	f.Down(t)
	_, inspect := f.Bundles.InspectBundle(t.Context(), spec.Owner)
	_, ensure := f.Bundles.EnsureBundle(t.Context(), spec)
	_, list := f.Bundles.ListBundles(t.Context())
	for call, err := range map[string]error{
		"inspect": inspect, "ensure": ensure, "list": list,
		"delete": f.Bundles.DeleteBundle(t.Context(), spec.Owner),
	} {
		if !errors.Is(err, host.ErrUnavailable) {
			t.Errorf("%s: got %v, want ErrUnavailable", call, err)
		}
	}
}

func bundleStopDown(t *testing.T, f BundlesFixture) {
	spec := newBundle(t, f, "78")
	wantRunning(t, f, spec)
	f.Down(t)
	if err := f.Bundles.StopBundle(t.Context(), spec.Owner); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("stop: got %v, want ErrUnavailable", err)
	}
}
