// SPDX-License-Identifier: Apache-2.0

// Package criruntime implements host.Networks and host.Bundles for Bottles whose bundle is
// the container of their placeholder Pod. It finds the Pod through the node's container
// runtime (containerd or CRI-O), which it asks over the CRI, and makes the Bottle's bridge
// in the Pod's network namespace. It never creates or starts a Pod or a container: the
// manager and the kubelet do that. It does not use the Kubernetes API.
//
// It uses the generated client of k8s.io/cri-api, because k8s.io/cri-client connects when
// it is created and then fails while the runtime is down.
package criruntime

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/netns"
	"botbottle.dev/bottle-operator/internal/watchers"
)

const (
	// readTimeout bounds a call that only reads. A runtime that does not answer in this
	// time counts as unavailable.
	readTimeout = 8 * time.Second
	// silence is how long a runtime that has answered may be silent before that is
	// reported: a restart takes seconds. Until then, errors are ErrRestarting.
	silence = 30 * time.Second
	// patience is how long a call that only reads is repeated while the runtime is silent.
	patience = 5 * time.Second
	// stopTimeout bounds the stop of a container.
	stopTimeout = 30 * time.Second
	// maxMessage is the size of the largest answer that is read, as in the kubelet.
	maxMessage = 16 << 20
)

// Options configure a Runtime.
type Options struct {
	// Sockets are addresses such as unix:///run/containerd/containerd.sock. The container
	// runtime is at the first whose socket exists. As long as none has answered, they are
	// looked at again.
	Sockets []string
	// KubeletDir is the kubelet's folder, such as /var/lib/kubelet.
	KubeletDir string
	// Cluster and Node complete the owners that Pods, ListNetworks and ListBundles
	// return: a kubelet's Pods all belong to its cluster and node.
	Cluster, Node string
}

// Runtime is a connection to a node's container runtime. It may be used from many
// goroutines.
type Runtime struct {
	options  Options
	conn     *grpc.ClientConn
	client   cri.RuntimeServiceClient
	socket   *socket
	cache    cache
	left     leftovers
	watchers watchers.Watchers // of WatchBundles
	logBytes int               // per second and container
	pulse    pulse
	// silence and patience are the constants, or shorter in tests.
	silence, patience time.Duration
	// identify is netns.Identify, or a fake in tests.
	identify func(path string) (host.NetNS, error)
}

// New returns a Runtime. It does not connect; an error means that o is not valid. As long as
// Run does not run, the runtime is asked for each Pod at most once a second.
func New(o Options) (*Runtime, error) {
	socket, err := newSocket(o.Sockets)
	if err != nil {
		return nil, err
	}
	if !filepath.IsAbs(o.KubeletDir) {
		return nil, fmt.Errorf("folder %q of the kubelet: want an absolute path", o.KubeletDir)
	}
	// A lost connection is opened again soon, because the runtime was probably restarted.
	retry := backoff.DefaultConfig
	retry.BaseDelay, retry.MaxDelay = 100*time.Millisecond, 3*time.Second
	conn, err := grpc.NewClient("passthrough:///container-runtime",
		grpc.WithContextDialer(socket.dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: readTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("container runtime: %w", err)
	}
	r := &Runtime{options: o, conn: conn, client: cri.NewRuntimeServiceClient(conn), socket: socket, logBytes: logBytes, silence: silence, patience: patience, identify: netns.Identify}
	r.cache.init()
	r.left.init()
	return r, nil
}

// Close ends the connection.
func (r *Runtime) Close() error { return r.conn.Close() }

// Version returns the name and version of the container runtime, such as "containerd
// v2.4.2". Its errors are those of Ping.
func (r *Runtime) Version(ctx context.Context) (string, error) {
	r.socket.again()
	once := request{r: r, what: "ask the container runtime for its version", limit: readTimeout}
	var at peer.Peer
	out, err := call(ctx, once, func(ctx context.Context) (*cri.VersionResponse, error) {
		return r.client.Version(ctx, &cri.VersionRequest{}, grpc.Peer(&at))
	})
	if err != nil {
		return "", err
	}
	if at.Addr != nil {
		r.socket.found(at.Addr.String())
	}
	return printable(out.RuntimeName, 64) + " " + printable(out.RuntimeVersion, 64), nil
}

// Ping checks that the container runtime answers. It returns ErrUnavailable when there is no
// answer within a few seconds, and ErrUnsupported when the program at the socket has no CRI,
// such as the containerd of a Docker Engine.
func (r *Runtime) Ping(ctx context.Context) error {
	_, err := r.Version(ctx)
	return err
}

// Answers is Ping, but returns nil while a runtime that has answered is silent for only a
// short time: it is probably being restarted, and its Pods run on.
func (r *Runtime) Answers(ctx context.Context) error {
	err := r.Ping(ctx)
	if errors.Is(err, host.ErrRestarting) {
		return nil
	}
	return err
}

var (
	_ host.Networks = (*Networks)(nil)
	_ host.Bundles  = (*Bundles)(nil)
)

// Networks returns the adapter that makes the Bottles' bridges in their Pods.
func (r *Runtime) Networks() *Networks { return &Networks{r} }

// Bundles returns the adapter for the bundles' containers.
func (r *Runtime) Bundles() *Bundles { return &Bundles{r} }
