// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/test/await"
)

func TestPod(t *testing.T) {
	f, r := startFake(t)
	useFakeNS(r)
	if _, err := r.Pod(t.Context(), testOwner); !errors.Is(err, host.ErrNotFound) {
		t.Fatalf("no Pod: got %v, want ErrNotFound", err)
	}
	r.cache.drop("")
	ended := sandboxOf(testOwner, testOwner.ID(), "old")
	ended.State = cri.PodSandboxState_SANDBOX_NOTREADY
	f.put(ended, "/run/netns/gone")
	for _, forged := range []*cri.PodSandboxStatus{sandboxOf(testOwner, "forged", "x"), sandboxOf(testOwner, testOwner.ID(), "y")} {
		if forged.Id == "y" {
			forged.Metadata.Namespace = "team-b"
		}
		f.put(forged, "/run/netns/a")
	}
	f.put(sandboxOf(testOwner, testOwner.ID()+"-2", "new"), "/run/netns/a")
	got, err := r.Pod(t.Context(), testOwner)
	if err != nil {
		t.Fatal(err)
	}
	want := Pod{
		UID: "pod-new", Namespace: "team-a", Name: testOwner.ID() + "-2", SandboxID: "new", NetNS: "/run/netns/a", NetNSID: host.NetNS{Dev: 4, Inode: 7},
		IPs: []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")}, Annotations: map[string]string{"botbottle.dev/name": "my-demo"},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("Pod (-want +got):\n%s", d)
	}
	// Whoever forges all labels and names in another namespace is listed as of that namespace.
	pods, err := r.Pods(t.Context())
	if err != nil || len(pods) != 3 || pods[2].Owner.Namespace != "team-b" || pods[0].SandboxID != "new" || !pods[0].Ready || pods[1].SandboxID != "old" || pods[1].Ready || pods[0].Owner != testOwner {
		t.Errorf("Pods: got %+v, %v, want the ready and the ended sandbox of %+v", pods, err, testOwner)
	}
}

func TestPodConflicts(t *testing.T) {
	for name, tt := range map[string]struct {
		put  func(f *fakeRuntime)
		text string
		want error
	}{
		"two": {func(f *fakeRuntime) {
			f.put(sandboxOf(testOwner, testOwner.ID(), "first"), "/run/netns/a")
			f.put(sandboxOf(testOwner, testOwner.ID()+"-2", "second"), "/run/netns/b")
		}, "second", host.ErrConflict},
		// A Pod and the one before it, which the kubelet has not ended yet.
		"two of one name": {func(f *fakeRuntime) {
			f.put(sandboxOf(testOwner, testOwner.ID(), "first"), "/run/netns/a")
			f.put(sandboxOf(testOwner, testOwner.ID(), "second"), "/run/netns/b")
		}, "second", host.ErrNotFound},
		"hostNetwork": {func(f *fakeRuntime) {
			s := sandboxOf(testOwner, testOwner.ID(), "a")
			s.Linux = &cri.LinuxPodSandboxStatus{Namespaces: &cri.Namespace{Options: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}}}
			f.put(s, "/run/netns/a")
		}, "node's network", host.ErrConflict},
		"own namespace": {func(f *fakeRuntime) {
			f.put(sandboxOf(testOwner, testOwner.ID(), "a"), "/proc/self/ns/net")
		}, "node's network", host.ErrConflict},
		"namespace is gone": {func(f *fakeRuntime) {
			f.put(sandboxOf(testOwner, testOwner.ID(), "a"), "/run/netns/gone")
		}, "gone", host.ErrNotFound},
		"no JSON": {func(f *fakeRuntime) { f.putInfo(sandboxOf(testOwner, testOwner.ID(), "a"), "{") }, "JSON", nil},
	} {
		t.Run(name, func(t *testing.T) {
			f, r := startFake(t)
			ns := newFakeNS()
			ns.set("/run/netns/a", 7)
			ns.set("/run/netns/b", 8)
			r.identify = ns.identify
			tt.put(f)
			_, err := r.Pod(t.Context(), testOwner)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

// TestPodWithoutPath checks the form of the runtimes that show only a pid.
func TestPodWithoutPath(t *testing.T) {
	f, r := startFake(t)
	ns := newFakeNS()
	ns.set("/proc/4711/ns/net", 9)
	r.identify = ns.identify
	f.putInfo(sandboxOf(testOwner, testOwner.ID(), "a"), `{"image": "pause", "pid": 4711}`)
	got, err := r.Pod(t.Context(), testOwner)
	if err != nil || got.NetNS != "/proc/4711/ns/net" || got.NetNSID.Inode != 9 {
		t.Errorf("got %+v, %v, want the namespace of the pid", got, err)
	}
}

func TestPodErrors(t *testing.T) {
	f, r := startFake(t)
	for code, want := range map[codes.Code]error{
		codes.Unavailable: host.ErrUnavailable, codes.DeadlineExceeded: host.ErrUnavailable, codes.Unimplemented: host.ErrUnsupported,
	} {
		f.fail(status.Error(code, strings.Repeat("long\x1b", 1000)))
		err := r.Ping(t.Context())
		if !errors.Is(err, want) || len(err.Error()) > 500 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: got %v, want %v with a short text", code, err, want)
		}
	}
	f.stop()
	if _, err := r.Pod(t.Context(), testOwner); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("stopped: got %v, want ErrUnavailable", err)
	}
}

// TestCache checks that a known Pod costs no call, until something changes.
func TestCache(t *testing.T) {
	f, r := startFake(t)
	ns := useFakeNS(r)
	f.put(sandboxOf(testOwner, testOwner.ID(), "a"), "/run/netns/a")
	run(t, r)
	await.True(t, "events arrive", r.cache.isWatched)
	var changes []string
	var mu sync.Mutex
	remove := r.watchers.Add(func(uid string) {
		mu.Lock()
		defer mu.Unlock()
		changes = append(changes, uid)
	})
	defer remove()
	look := func(what string, inspections int, sandbox string) {
		t.Helper()
		p, err := r.Pod(t.Context(), testOwner)
		if err != nil || p.SandboxID != sandbox || f.inspections() != inspections {
			t.Errorf("%s: got sandbox %q, %v after %d inspections, want %q after %d", what, p.SandboxID, err, f.inspections(), sandbox, inspections)
		}
	}
	look("first", 1, "a")
	for range 100 {
		look("again", 1, "a")
	}
	other := testOwner
	other.UID = "another"
	f.event(other)
	f.event(testOwner)
	await.True(t, "the event arrives", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(changes) > 0 && changes[len(changes)-1] == testOwner.UID
	})
	look("after an event", 2, "a")
	ns.set("/run/netns/a", 8) // another namespace at the same path, and no event
	look("another namespace", 3, "a")

	// Another sandbox, and the stream is lost: it may have had the event.
	f.stop()
	await.True(t, "the loss is noticed", func() bool { return !r.cache.isWatched() })
	if _, err := r.Pod(t.Context(), testOwner); !errors.Is(err, host.ErrUnavailable) {
		t.Errorf("runtime down: got %v, want ErrUnavailable", err)
	}
	ended := sandboxOf(testOwner, testOwner.ID(), "a")
	ended.State = cri.PodSandboxState_SANDBOX_NOTREADY
	f.put(ended, "/run/netns/a")
	f.put(sandboxOf(testOwner, testOwner.ID(), "b"), "/run/netns/a")
	f.start(t)
	await.True(t, "events arrive again", r.cache.isWatched)
	look("after the loss", 4, "b")
}

// TestCacheWithoutEvents checks that a runtime without events is asked at most once a
// second for each Pod.
func TestCacheWithoutEvents(t *testing.T) {
	f, r := startFake(t)
	useFakeNS(r)
	f.noEvents = true
	f.put(sandboxOf(testOwner, testOwner.ID(), "a"), "/run/netns/a")
	var mu sync.Mutex
	now := time.Now()
	r.cache.now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	for second := range 3 {
		for range 10 {
			if _, err := r.Pod(t.Context(), testOwner); err != nil {
				t.Fatal(err)
			}
		}
		if got := f.inspections(); got != second+1 {
			t.Errorf("after %d s: got %d inspections, want %d", second, got, second+1)
		}
		mu.Lock()
		now = now.Add(unwatchedAge)
		mu.Unlock()
	}
}

// TestLookupDuringChange checks that a lookup that an event overtook is not kept.
func TestLookupDuringChange(t *testing.T) {
	_, r := startFake(t)
	began := r.cache.version()
	r.cache.drop(testOwner.UID)
	r.cache.put(entry{owner: testOwner, err: errTest}, began)
	if _, ok := r.cache.get(testOwner); ok {
		t.Error("got an entry of before the event, want none")
	}
}

func TestPodsOfOneOwnerWaitForOneLookup(t *testing.T) {
	f, r := startFake(t)
	useFakeNS(r)
	f.put(sandboxOf(testOwner, testOwner.ID(), "a"), "/run/netns/a")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := r.Pod(t.Context(), testOwner); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := f.inspections(); got != 1 {
		t.Errorf("got %d inspections, want 1", got)
	}
}

// TestWatchWithoutEvents checks that changes are also noticed in a runtime that has no events,
// and only the changes.
func TestWatchWithoutEvents(t *testing.T) {
	f, r := startFake(t)
	f.noEvents = true
	other := testOwner
	other.UID = "another-one"
	f.put(sandboxOf(testOwner, testOwner.ID(), "a"), "/run/netns/a")
	f.put(sandboxOf(other, other.ID(), "b"), "/run/netns/b")
	uids := make(chan string, 100)
	go func() { _ = r.Bundles().WatchBundles(t.Context(), func(uid string) { uids <- uid }) }()
	await.True(t, "the watch begins", func() bool { return r.watchers.Len() == 1 })
	run(t, r)
	want := func(uid string) {
		t.Helper()
		select {
		case got := <-uids:
			if got != uid {
				t.Errorf("got a change of %q, want %q", got, uid)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("got no change within 20 s, want one of %q", uid)
		}
	}
	want("") // nothing is known yet
	await.True(t, "the first list", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.lists > 0
	})
	ended := sandboxOf(testOwner, testOwner.ID(), "a")
	ended.State = cri.PodSandboxState_SANDBOX_NOTREADY
	f.put(ended, "/run/netns/a")
	want(testOwner.UID)
	f.mu.Lock()
	f.containers = []*cri.ContainerStatus{{Id: "c", State: cri.ContainerState_CONTAINER_RUNNING}}
	f.owners = map[string]string{"c": "b"}
	f.mu.Unlock()
	want(other.UID)
	select {
	case uid := <-uids:
		t.Errorf("got another change of %q, want none", uid)
	default:
	}
}
