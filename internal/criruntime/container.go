// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/placeholder"
	"botbottle.dev/bottle-operator/internal/subnet"
)

// containerNameLabel is a label that the kubelet gives to containers.
const containerNameLabel = "io.kubernetes.container.name"

// container is a Pod's bundle: the newest container with the name placeholder.Container.
type container struct {
	pod    Pod
	status *cri.ContainerStatus
	pid    int // of its first process; 0 if it does not run
}

func (c container) running() bool {
	return c.status.GetState() == cri.ContainerState_CONTAINER_RUNNING
}

// errNoContainer means that the Pod runs and has no container yet. It is an ErrNotFound.
var errNoContainer = fmt.Errorf("the Pod has no container %s yet: %w", placeholder.Container, host.ErrNotFound)

// findContainer returns the owner's bundle. Its errors are those of Pod. It also returns
// errNoContainer if the Pod has no container yet, and ErrConflict if the owner belongs to
// another cluster or node.
func (r *Runtime) findContainer(ctx context.Context, owner host.Owner) (container, error) {
	what := fmt.Sprintf("bundle of Pod %s/%s", owner.Namespace, owner.ID())
	if o := r.options; o.Cluster != "" && (owner.Cluster != o.Cluster || owner.Node != o.Node) {
		return container{}, fmt.Errorf("%s: it belongs to node %s of cluster %s, and this agent to node %s of cluster %s: %w", what, owner.Node, owner.Cluster, o.Node, o.Cluster, host.ErrConflict)
	}
	pod, err := r.Pod(ctx, owner)
	if err != nil {
		return container{}, err
	}
	all, err := r.containers(ctx, pod.SandboxID)
	if err != nil {
		return container{}, err
	}
	newest := newestOf(all)
	if newest == nil {
		return container{}, fmt.Errorf("%s: %w", what, errNoContainer)
	}
	status, err := call(ctx, r.reading("inspect "+what), func(ctx context.Context) (*cri.ContainerStatusResponse, error) {
		return r.client.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: newest.Id, Verbose: true})
	})
	if err != nil {
		return container{}, err
	}
	if status.GetStatus() == nil {
		return container{}, fmt.Errorf("inspect %s: the container runtime's answer is empty", what)
	}
	var info struct {
		PID int `json:"pid"`
	}
	_ = json.Unmarshal([]byte(status.GetInfo()["info"]), &info) // without it, only ReadFile fails
	return container{pod: pod, status: status.Status, pid: info.PID}, nil
}

// containers returns the bundle's containers of a sandbox; "" means of all sandboxes.
func (r *Runtime) containers(ctx context.Context, sandbox string) ([]*cri.Container, error) {
	filter := &cri.ContainerFilter{PodSandboxId: sandbox, LabelSelector: map[string]string{containerNameLabel: placeholder.Container}}
	out, err := call(ctx, r.reading("list the node's containers"), func(ctx context.Context) (*cri.ListContainersResponse, error) {
		return r.client.ListContainers(ctx, &cri.ListContainersRequest{Filter: filter})
	})
	return out.GetContainers(), err
}

// newestOf returns the container of the last restart, or nil.
func newestOf(all []*cri.Container) (newest *cri.Container) {
	for _, c := range all {
		if newest == nil || c.CreatedAt > newest.CreatedAt {
			newest = c
		}
	}
	return newest
}

// bundle returns the container as host.Bundles shows it.
func (c container) bundle(owner host.Owner, n host.Network) host.Bundle {
	s := c.status
	b := host.Bundle{
		Owner: owner, ContainerID: s.GetId(), Image: printable(imageOf(s), 512),
		Running: c.running(), State: stateOf(s), OutOfMemory: s.GetReason() == "OOMKilled",
	}
	if s.GetStartedAt() > 0 {
		b.StartedAt = time.Unix(0, s.GetStartedAt()).UTC()
	}
	if t, err := subnet.TripleOf(n.Subnet); err == nil {
		b.IP = t.BundleIP
	}
	return b
}

// imageOf returns the image by its digest in a registry, or by its name if it was not pulled
// from one.
func imageOf(s *cri.ContainerStatus) string {
	if ref := s.GetImageRef(); strings.Contains(ref, "@sha256:") {
		return ref
	}
	if name := s.GetImage().GetUserSpecifiedImage(); name != "" {
		return name
	}
	return s.GetImage().GetImage()
}

func stateOf(s *cri.ContainerStatus) string {
	switch s.GetState() {
	case cri.ContainerState_CONTAINER_CREATED:
		return "created"
	case cri.ContainerState_CONTAINER_RUNNING:
		return "running"
	case cri.ContainerState_CONTAINER_EXITED:
		return fmt.Sprintf("exited (%d)", s.GetExitCode())
	}
	return "unknown"
}

// networkOf returns the owner's network, or none.
func (r *Runtime) networkOf(ctx context.Context, owner host.Owner) (host.Network, error) {
	n, err := r.Networks().InspectNetwork(ctx, owner)
	if absent(err) {
		return host.Network{}, nil
	}
	return n, err
}

// stopContainer ends a container at once. It returns nil if there is none.
func (r *Runtime) stopContainer(ctx context.Context, id string) error {
	once := request{r: r, what: fmt.Sprintf("stop container %.12s", id), limit: stopTimeout}
	_, err := call(ctx, once, func(ctx context.Context) (*cri.StopContainerResponse, error) {
		return r.client.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 0})
	})
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	return err
}
