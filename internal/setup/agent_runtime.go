// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/criruntime"
	"botbottle.dev/bottle-operator/internal/docker"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/netns"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/wall"
)

// criSockets are where container runtimes listen for the kubelet: containerd of k3s and RKE2,
// CRI-O, and containerd. That of containerd comes last, because a Docker Engine has it, too,
// and may run beside one of the others.
var criSockets = []string{
	"unix:///run/k3s/containerd/containerd.sock",
	"unix:///run/crio/crio.sock",
	"unix:///run/containerd/containerd.sock",
}

// RuntimeOptions say what runs the bundles of a node.
type RuntimeOptions struct {
	Kind       string
	CRISocket  string
	KubeletDir string
}

// Bind adds the flags.
func (o *RuntimeOptions) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.Kind, "bundle-runtime", string(bundleruntime.Auto), "what runs the bundles of new Bottles: pod (the kubelet, in the Bottles' own Pods), docker (the node's Docker Engine), or auto (pod where a kubelet runs, else docker); a Bottle keeps the one that it has")
	fs.StringVar(&o.CRISocket, "cri-socket", "", "address of the container runtime that the kubelet uses; if empty, the first of these that exists, which is looked at again until a container runtime answers: "+strings.Join(criSockets, ", "))
	fs.StringVar(&o.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "the kubelet's directory (its --root-dir), which holds the volumes of Pods")
}

// Validate returns an error that names every invalid flag.
func (o *RuntimeOptions) Validate() error {
	var errs []error
	switch bundleruntime.Kind(o.Kind) {
	case bundleruntime.Auto, bundleruntime.Pod, bundleruntime.Docker:
	default:
		errs = append(errs, fmt.Errorf("--bundle-runtime %q: want auto, pod or docker", o.Kind))
	}
	if path, unix := strings.CutPrefix(o.CRISocket, "unix://"); o.CRISocket != "" && (!unix || !filepath.IsAbs(path)) {
		errs = append(errs, fmt.Errorf("--cri-socket %q: want an address such as %s, or empty", o.CRISocket, criSockets[len(criSockets)-1]))
	}
	if !filepath.IsAbs(o.KubeletDir) {
		errs = append(errs, fmt.Errorf("--kubelet-dir %q: want an absolute path", o.KubeletDir))
	}
	return errors.Join(errs...)
}

func (o *RuntimeOptions) sockets() []string {
	if o.CRISocket != "" {
		return []string{o.CRISocket}
	}
	return criSockets
}

// runtimes are both runtimes of bundles, and what chooses between them. Neither is
// contacted before a Bottle needs it.
type runtimes struct {
	set    *bundleruntime.Set
	places *bundleruntime.Places
	inPods *wall.PodWalls
	cri    atomic.Pointer[criruntime.Runtime]
}

// openRuntimes returns the runtimes of this node. It contacts neither.
func (o *AgentOptions) openRuntimes(dir *state.Dir) (*runtimes, error) {
	r := &runtimes{}
	cluster, err := dir.Cluster()
	if err == nil {
		err = r.connect(o, cluster)
	}
	if err != nil {
		return nil, err
	}
	node := o.nodeRuntime(r.cri.Load)
	choices, err := bundleruntime.NewChoices(dir, node.Runtime)
	if err != nil {
		return nil, err
	}
	r.set = &bundleruntime.Set{Choices: choices, Node: node}
	r.places, err = bundleruntime.NewPlaces(bundleruntime.PlacesOptions{
		State: dir, Choices: choices, Locate: r.locate, Identify: netns.Identify,
	})
	if err != nil {
		return nil, err
	}
	r.inPods = wall.NewPods(wall.PodOptions{Namespace: r.places.NetNS})
	return r, nil
}

// nodeRuntime returns what finds out which runtime new Bottles get. It asks the container
// runtime that cri returns.
func (o *AgentOptions) nodeRuntime(cri func() *criruntime.Runtime) *bundleruntime.Node {
	return &bundleruntime.Node{
		Wanted: bundleruntime.Kind(o.Runtime.Kind), KubeletDir: o.Runtime.KubeletDir, DockerHost: o.DockerHost,
		Socket: func() string { return cri().Socket() }, Ping: func(ctx context.Context) error { return cri().Ping(ctx) },
	}
}

// connect makes the client of the container runtime. The cluster is what the owners that
// it lists belong to; it is not known before the agent's first start has reached the API
// server.
func (r *runtimes) connect(o *AgentOptions, cluster string) error {
	c, err := criruntime.New(criruntime.Options{Sockets: o.Runtime.sockets(), KubeletDir: o.Runtime.KubeletDir, Cluster: cluster, Node: o.NodeName})
	if err != nil {
		return fmt.Errorf("--cri-socket: %w", err)
	}
	if before := r.cri.Swap(c); before != nil {
		return before.Close()
	}
	return nil
}

func (r *runtimes) locate(ctx context.Context, owner host.Owner) (bundleruntime.Place, error) {
	cri := r.cri.Load()
	p, err := cri.Pod(ctx, owner)
	if err != nil {
		return bundleruntime.Place{}, err
	}
	place := bundleruntime.PlaceOf(p)
	place.Rules, place.Secrets, err = cri.Volumes(p)
	if errors.Is(err, host.ErrNotFound) { // the bundle's image is the user's
		err = nil
	}
	return place, err
}

// follow follows the events of the container runtime, from when a Bottle needs it.
func (r *runtimes) follow(ctx context.Context) error {
	for !r.set.Active(bundleruntime.Pod) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
	return r.cri.Load().Run(ctx)
}

// walls returns the walls of both runtimes.
func (r *runtimes) walls() *bundleruntime.Walls {
	return bundleruntime.NewWalls(r.set, wall.New(wall.Options{}), r.inPods, func(kind bundleruntime.Kind, err error) {
		ctrl.Log.Error(err, "Walls cannot be watched, so they are checked only at each interval", "runtime", kind)
	})
}

// networks returns the networks of both runtimes.
func (r *runtimes) networks(engine *docker.Engine) *bundleruntime.Networks {
	inPods := bundleruntime.PodNetworks{Networks: r.cri.Load().Networks(), Protect: r.inPods.ProtectBundle}
	return bundleruntime.NewNetworks(r.set, engine, inPods, r.places)
}

// bundles returns the bundles of both runtimes.
func (r *runtimes) bundles(engine *docker.Engine) *bundleruntime.Bundles {
	return bundleruntime.NewBundles(r.set, engine, r.cri.Load().Bundles(), func(kind bundleruntime.Kind, err error) {
		ctrl.Log.Error(err, "The watch of the bundles ended and is restarted", "runtime", kind)
	})
}

// pods returns what proofs know about Pods.
func (r *runtimes) pods() bundleruntime.Pods {
	return bundleruntime.Pods{Choices: r.set.Choices, Occupied: func(ctx context.Context, owner host.Owner) ([]netip.Prefix, error) {
		return r.cri.Load().Networks().OccupiedPrefixes(ctx, owner)
	}}
}

// apiService returns the address of the API server's Service, which every Pod has in its
// environment; none for an agent that is not in one.
func apiService() []netip.AddrPort {
	service, err := netip.ParseAddrPort(net.JoinHostPort(os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")))
	if a := service.Addr(); err != nil || service.Port() == 0 || a.IsLoopback() || a.IsUnspecified() || a.Zone() != "" {
		return nil
	}
	return []netip.AddrPort{service}
}
