// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/cgroup"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/netns"
)

// ours is the prefix of our labels and annotations.
const ours = "botbottle.dev/"

// Pod is the sandbox of a Bottle's placeholder Pod, as the container runtime shows it.
type Pod struct {
	UID, Namespace, Name, SandboxID string
	// NetNS is the file of the network namespace. It may be /proc/PID/ns/net, which is
	// a link. NetNSID is its identity. It is never the namespace of this process.
	NetNS   string
	NetNSID host.NetNS
	// Cgroup is the Pod's cgroup: a path below the mount of the unified hierarchy, such
	// as "kubepods/podUID". It is "" if the runtime does not use that hierarchy.
	Cgroup string
	IPs    []netip.Addr
	// Annotations are the Pod's annotations of ours, as of the sandbox's creation.
	Annotations map[string]string
}

// Placeholder is a Pod on this node with the labels and the name of a placeholder. They prove
// nothing, because anyone who creates a Pod can choose them.
type Placeholder struct {
	Owner                           host.Owner
	UID, Namespace, Name, SandboxID string
	// Ready is whether the sandbox is running.
	Ready bool
}

// Pods returns the sandboxes of all placeholder Pods on this node, in a fixed order. A Pod
// has several after its sandbox was replaced; at most one of them is Ready.
func (r *Runtime) Pods(ctx context.Context) ([]Placeholder, error) {
	all, err := r.sandboxes(ctx, nil)
	if err != nil {
		return nil, err
	}
	var out []Placeholder
	for _, s := range all {
		owner, ok := r.ownerOf(s)
		if !ok {
			continue
		}
		m := s.GetMetadata()
		out = append(out, Placeholder{
			Owner: owner, UID: m.GetUid(), Namespace: m.GetNamespace(), Name: m.GetName(), SandboxID: s.Id,
			Ready: s.State == cri.PodSandboxState_SANDBOX_READY,
		})
	}
	slices.SortFunc(out, func(a, b Placeholder) int {
		return strings.Compare(a.Owner.UID+a.SandboxID, b.Owner.UID+b.SandboxID)
	})
	return out, nil
}

// ownerOf returns the owner that a sandbox's labels name. It returns false if the manager
// would not give the sandbox's Pod its name, so that it is not the owner's placeholder.
func (r *Runtime) ownerOf(s *cri.PodSandbox) (host.Owner, bool) {
	o := host.Owner{
		UID: s.Labels[v1alpha1.LabelUID], Slug: s.Labels[v1alpha1.LabelSlug],
		Namespace: s.GetMetadata().GetNamespace(), Name: s.Annotations[v1alpha1.LabelName],
		Cluster: r.options.Cluster, Node: r.options.Node,
	}
	return o, o.UID != "" && isPlaceholder(s, o)
}

// isPlaceholder reports whether a sandbox with the owner's label is that of its placeholder:
// it is in the Bottle's namespace, and has one of the names that the manager gives. There,
// admission lets nobody else set the label: see config/policy/tenant_pods.yaml.
func isPlaceholder(s *cri.PodSandbox, o host.Owner) bool {
	name := s.GetMetadata().GetName()
	return s.GetMetadata().GetNamespace() == o.Namespace && (name == o.ID() || name == o.ID()+"-2")
}

// sandboxes returns the sandboxes that have these labels; nil means all.
func (r *Runtime) sandboxes(ctx context.Context, labels map[string]string) ([]*cri.PodSandbox, error) {
	filter := &cri.PodSandboxFilter{LabelSelector: labels}
	out, err := call(ctx, r.reading("list the node's Pods"), func(ctx context.Context) (*cri.ListPodSandboxResponse, error) {
		return r.client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: filter})
	})
	return out.GetItems(), err
}

// lookUp finds the owner's Pod without the cache.
func (r *Runtime) lookUp(ctx context.Context, owner host.Owner) (Pod, error) {
	ready, err := r.readySandbox(ctx, owner)
	if err != nil {
		return Pod{}, err
	}
	what := "inspect Pod " + ready.Metadata.Namespace + "/" + ready.Metadata.Name
	status, err := call(ctx, r.reading(what), func(ctx context.Context) (*cri.PodSandboxStatusResponse, error) {
		return r.client.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: ready.Id, Verbose: true})
	})
	if err != nil {
		return Pod{}, err
	}
	p, err := r.podOf(status)
	if err != nil {
		return Pod{}, fmt.Errorf("%s: %w", what, err)
	}
	return p, nil
}

// readySandbox returns the owner's only sandbox that is ready.
func (r *Runtime) readySandbox(ctx context.Context, owner host.Owner) (*cri.PodSandbox, error) {
	all, err := r.sandboxes(ctx, map[string]string{v1alpha1.LabelUID: owner.UID})
	if err != nil {
		return nil, err
	}
	var ready []*cri.PodSandbox
	for _, s := range all {
		if s.State == cri.PodSandboxState_SANDBOX_READY && isPlaceholder(s, owner) {
			ready = append(ready, s)
		}
	}
	switch len(ready) {
	case 0:
		return nil, fmt.Errorf("running Pod %s/%s: %w", owner.Namespace, owner.ID(), host.ErrNotFound)
	case 1:
		return ready[0], nil
	}
	var names []string
	for _, s := range ready {
		names = append(names, fmt.Sprintf("%s/%s (sandbox %.12s)", s.Metadata.Namespace, s.Metadata.Name, s.Id))
	}
	slices.Sort(names)
	if !slices.ContainsFunc(ready, func(s *cri.PodSandbox) bool { return s.Metadata.Name != ready[0].Metadata.Name }) {
		// The API server has one Pod of a name, so the kubelet has not ended the earlier one yet.
		return nil, fmt.Errorf("one running Pod of %s: %w yet: %s", owner.ID(), host.ErrNotFound, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("several running Pods claim to be %s: %s: %w", owner.ID(), strings.Join(names, ", "), host.ErrConflict)
}

// sandboxInfo has the fields that are used of the JSON object "info" in a verbose status.
// containerd and CRI-O fill in different ones.
type sandboxInfo struct {
	PID         int `json:"pid"`
	RuntimeSpec struct {
		Linux struct {
			Namespaces []struct {
				Type string `json:"type"`
				Path string `json:"path"`
			} `json:"namespaces"`
		} `json:"linux"`
	} `json:"runtimeSpec"`
}

func (r *Runtime) podOf(status *cri.PodSandboxStatusResponse) (Pod, error) {
	s := status.GetStatus()
	if s.GetState() != cri.PodSandboxState_SANDBOX_READY {
		return Pod{}, fmt.Errorf("it has just ended: %w", host.ErrNotFound)
	}
	var info sandboxInfo
	if err := json.Unmarshal([]byte(status.GetInfo()["info"]), &info); err != nil {
		return Pod{}, errors.New("the container runtime's answer has no JSON object \"info\"")
	}
	p := Pod{
		UID: s.GetMetadata().GetUid(), Namespace: s.GetMetadata().GetNamespace(), Name: s.GetMetadata().GetName(), SandboxID: s.GetId(),
		IPs: ipsOf(s.GetNetwork()), Annotations: map[string]string{},
	}
	for name, value := range s.GetAnnotations() {
		if strings.HasPrefix(name, ours) {
			p.Annotations[name] = value
		}
	}
	if s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == cri.NamespaceMode_NODE {
		return Pod{}, fmt.Errorf("it uses the node's network: %w", host.ErrConflict)
	}
	var err error
	if p.NetNS, p.NetNSID, err = r.netNSOf(info); err != nil {
		return Pod{}, err
	}
	p.Cgroup = r.podCgroup(info.PID, p.NetNSID)
	return p, nil
}

// netNSOf returns the file and the identity of the network namespace. The namespace of
// this process is refused: what is meant for a Pod must never be done to the node.
func (r *Runtime) netNSOf(info sandboxInfo) (string, host.NetNS, error) {
	var candidates []string
	for _, n := range info.RuntimeSpec.Linux.Namespaces {
		if n.Type == "network" && path.IsAbs(n.Path) {
			candidates = append(candidates, n.Path)
		}
	}
	if info.PID > 0 {
		candidates = append(candidates, "/proc/"+strconv.Itoa(info.PID)+"/ns/net")
	}
	own, err := r.identify("/proc/self/ns/net")
	if err != nil {
		return "", host.NetNS{}, err
	}
	for _, file := range candidates {
		id, err := r.identify(file)
		switch {
		case errors.Is(err, netns.ErrGone):
			continue // the file may be in another mount namespace
		case err != nil:
			return "", host.NetNS{}, err
		case id == own:
			return "", host.NetNS{}, fmt.Errorf("it uses the node's network: %w", host.ErrConflict)
		}
		return file, id, nil
	}
	return "", host.NetNS{}, fmt.Errorf("its network namespace is gone: %w", host.ErrNotFound)
}

// podCgroup returns the cgroup above that of the sandbox's process. The process must be in
// the Pod's network namespace: its pid may have been given to another one.
func (r *Runtime) podCgroup(pid int, ns host.NetNS) string {
	if pid <= 0 {
		return ""
	}
	below, err := cgroup.PathOf(pid)
	if err != nil {
		return ""
	}
	if id, err := r.identify("/proc/" + strconv.Itoa(pid) + "/ns/net"); err != nil || id != ns {
		return ""
	}
	if parent := path.Dir(below); parent != "." {
		return parent
	}
	return ""
}

func ipsOf(n *cri.PodSandboxNetworkStatus) (out []netip.Addr) {
	texts := []string{n.GetIp()}
	for _, more := range n.GetAdditionalIps() {
		texts = append(texts, more.GetIp())
	}
	for _, text := range texts {
		if ip, err := netip.ParseAddr(text); err == nil {
			out = append(out, ip)
		}
	}
	return out
}
