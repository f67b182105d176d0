// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/netns"
)

// testOwner is a Bottle.
var testOwner = host.Owner{UID: "1a2b3c4d-0000-0000-0000-000000000001", Namespace: "team-a", Name: "my-demo", Slug: "demo", Cluster: "cluster-1", Node: "node-1"}

// fakeRuntime is a container runtime in memory.
type fakeRuntime struct {
	cri.UnimplementedRuntimeServiceServer
	socket string

	mu         sync.Mutex
	server     *grpc.Server
	sandboxes  []*cri.PodSandboxStatus
	info       map[string]string // of a sandbox, by id
	containers []*cri.ContainerStatus
	owners     map[string]string // of a container, by id: its sandbox
	inspected  int               // calls of PodSandboxStatus
	lists      int               // calls of ListContainers
	stopped    []string          // containers that were stopped at once
	streams    map[chan *cri.ContainerEventResponse]bool
	noEvents   bool
	failing    error
}

// startFake starts a fake runtime and returns it with a client.
func startFake(t *testing.T) (*fakeRuntime, *Runtime) {
	t.Helper()
	f := &fakeRuntime{socket: filepath.Join(t.TempDir(), "s"), info: map[string]string{}, streams: map[chan *cri.ContainerEventResponse]bool{}}
	f.start(t)
	t.Cleanup(f.stop)
	r, err := New(Options{Sockets: []string{"unix://" + f.socket}, KubeletDir: t.TempDir(), Cluster: "cluster-1", Node: "node-1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	r.identify, r.silence, r.patience = newFakeNS().identify, 0, time.Hour
	return f, r
}

func (f *fakeRuntime) start(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	f.server = grpc.NewServer()
	cri.RegisterRuntimeServiceServer(f.server, f)
	go func() { _ = f.server.Serve(listener) }()
}

func (f *fakeRuntime) stop() { f.server.Stop() }

// fakeNS knows the network namespaces of a test by their files.
type fakeNS struct {
	mu    sync.Mutex
	files map[string]host.NetNS
}

func newFakeNS() *fakeNS {
	return &fakeNS{files: map[string]host.NetNS{"/proc/self/ns/net": {Dev: 4, Inode: 1}}}
}

// useFakeNS makes r see a network namespace at /run/netns/a, and what the test adds.
func useFakeNS(r *Runtime) *fakeNS {
	ns := newFakeNS()
	ns.set("/run/netns/a", 7)
	r.identify = ns.identify
	return ns
}

func (n *fakeNS) identify(path string) (host.NetNS, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if id, ok := n.files[path]; ok {
		return id, nil
	}
	return host.NetNS{}, fmt.Errorf("%s: %w", path, netns.ErrGone)
}

func (n *fakeNS) set(path string, inode uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.files[path] = host.NetNS{Dev: 4, Inode: inode}
}

// sandboxOf returns a ready sandbox of the owner's Pod with this name.
func sandboxOf(o host.Owner, name, id string) *cri.PodSandboxStatus {
	return &cri.PodSandboxStatus{
		Id: id, Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: o.Namespace, Uid: "pod-" + id}, State: cri.PodSandboxState_SANDBOX_READY,
		Network: &cri.PodSandboxNetworkStatus{Ip: "10.1.2.3", AdditionalIps: []*cri.PodIP{{Ip: "fd00::3"}, {Ip: "no address"}}},
		Labels:  map[string]string{v1alpha1.LabelUID: o.UID, v1alpha1.LabelSlug: o.Slug}, Annotations: map[string]string{v1alpha1.LabelName: o.Name, "other": "x"},
	}
}

// put adds or replaces a sandbox whose network namespace is at the path.
func (f *fakeRuntime) put(s *cri.PodSandboxStatus, path string) {
	f.putInfo(s, fmt.Sprintf(`{"pid": 0, "runtimeSpec": {"linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": %q}]}}}`, path))
}

func (f *fakeRuntime) putInfo(s *cri.PodSandboxStatus, info string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, old := range f.sandboxes {
		if old.Id == s.Id {
			f.sandboxes = append(f.sandboxes[:i], f.sandboxes[i+1:]...)
			break
		}
	}
	f.sandboxes = append(f.sandboxes, s)
	f.info[s.Id] = info
}

// event reports a change of the owner's Pod.
func (f *fakeRuntime) event(o host.Owner) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for stream := range f.streams {
		stream <- &cri.ContainerEventResponse{PodSandboxStatus: sandboxOf(o, o.ID(), "any")}
	}
}

// fail makes every call fail; nil ends that.
func (f *fakeRuntime) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failing = err
}

func (f *fakeRuntime) inspections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.inspected
}

func (f *fakeRuntime) Version(context.Context, *cri.VersionRequest) (*cri.VersionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &cri.VersionResponse{RuntimeName: "fake", RuntimeVersion: "1\n"}, f.failing
}

func (f *fakeRuntime) ListPodSandbox(_ context.Context, req *cri.ListPodSandboxRequest) (*cri.ListPodSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &cri.ListPodSandboxResponse{}
	for _, s := range f.sandboxes {
		if want := req.Filter.LabelSelector[v1alpha1.LabelUID]; want == "" || want == s.Labels[v1alpha1.LabelUID] {
			out.Items = append(out.Items, &cri.PodSandbox{Id: s.Id, Metadata: s.Metadata, State: s.State, Labels: s.Labels, Annotations: s.Annotations})
		}
	}
	return out, f.failing
}

func (f *fakeRuntime) PodSandboxStatus(_ context.Context, req *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inspected++
	for _, s := range f.sandboxes {
		if s.Id == req.PodSandboxId && req.Verbose {
			return &cri.PodSandboxStatusResponse{Status: s, Info: map[string]string{"info": f.info[s.Id]}}, f.failing
		}
	}
	return nil, status.Error(codes.NotFound, "no such sandbox")
}

func (f *fakeRuntime) ListContainers(context.Context, *cri.ListContainersRequest) (*cri.ListContainersResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lists++
	out := &cri.ListContainersResponse{}
	for _, c := range f.containers {
		out.Containers = append(out.Containers, &cri.Container{Id: c.Id, PodSandboxId: f.owners[c.Id], State: c.State, CreatedAt: c.CreatedAt})
	}
	return out, f.failing
}

func (f *fakeRuntime) ContainerStatus(_ context.Context, req *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		if c.Id == req.ContainerId {
			return &cri.ContainerStatusResponse{Status: c}, f.failing
		}
	}
	return nil, status.Error(codes.NotFound, "no such container")
}

func (f *fakeRuntime) StopContainer(_ context.Context, req *cri.StopContainerRequest) (*cri.StopContainerResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if req.Timeout == 0 {
		f.stopped = append(f.stopped, req.ContainerId)
	}
	return &cri.StopContainerResponse{}, f.failing
}

func (f *fakeRuntime) GetContainerEvents(_ *cri.GetEventsRequest, stream grpc.ServerStreamingServer[cri.ContainerEventResponse]) error {
	events := make(chan *cri.ContainerEventResponse, 100)
	f.mu.Lock()
	if f.noEvents {
		f.mu.Unlock()
		return status.Error(codes.Unimplemented, "no events")
	}
	f.streams[events] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.streams, events)
		f.mu.Unlock()
	}()
	for {
		select {
		case e := <-events:
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// run runs r until the end of the test.
func run(t *testing.T, r *Runtime) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: got %v, want nil", err)
		}
	})
}

func (c *cache) isWatched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.watched
}

var errTest = errors.New("test")
