// SPDX-License-Identifier: Apache-2.0

package critest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/host"
)

// pod is a Pod that this package made.
type pod struct {
	name, uid string
	sandbox   string
	config    *cri.PodSandboxConfig
	attempt   uint32 // of the next sandbox

	spec       host.BundleSpec
	containers []string // the last one is the newest
}

// Place makes the owner's Pod run, as the kubelet would after the manager created it.
func (c *Containerd) Place(t testing.TB, owner host.Owner) {
	t.Helper()
	c.PlaceAs(t, owner, owner.ID())
}

// PlaceAs is Place for a Pod with another name.
func (c *Containerd) PlaceAs(t testing.TB, owner host.Owner, name string) {
	t.Helper()
	p := c.pods[name]
	if p == nil {
		p = &pod{name: name, uid: "pod-" + owner.UID}
		if name != owner.ID() {
			p.uid += "-2"
		}
		c.pods[name] = p
		c.mountVolumes(t, p)
	}
	if p.sandbox != "" {
		return
	}
	p.config = &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Namespace: owner.Namespace, Uid: p.uid, Attempt: p.attempt},
		Hostname: "bundle", LogDirectory: c.logDir(owner, p),
		Labels: map[string]string{
			"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": owner.Namespace, "io.kubernetes.pod.uid": p.uid,
			v1alpha1.LabelUID: owner.UID, v1alpha1.LabelSlug: owner.Slug, v1alpha1.LabelNamespace: owner.Namespace,
		},
		Annotations: map[string]string{v1alpha1.LabelName: owner.Name},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    c.cgroup() + "/pod" + p.uid,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
		},
	}
	p.attempt++
	// The kubelet makes a Pod's cgroup and folder.
	if err := os.MkdirAll(p.config.LogDirectory, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := bounded()
	defer cancel()
	out, err := c.cri.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: p.config})
	if err != nil {
		t.Fatalf("critest: run sandbox %s: %v\n%s", name, err, c.logTail())
	}
	p.sandbox = out.PodSandboxId
}

func (c *Containerd) logDir(owner host.Owner, p *pod) string {
	return filepath.Join(c.Dir, "pods", owner.Namespace+"_"+p.name+"_"+p.uid)
}

// Logs returns the folder of the log of the owner's container.
func (c *Containerd) Logs(owner host.Owner) string {
	return filepath.Join(c.logDir(owner, c.pods[owner.ID()]), "bundle")
}

// mountVolumes does what the kubelet does for an emptyDir in memory.
func (c *Containerd) mountVolumes(t testing.TB, p *pod) {
	t.Helper()
	for _, name := range []string{"rules", "secrets"} {
		dir := c.volume(p, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0777,size=1m"); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *Containerd) volume(p *pod, name string) string {
	return filepath.Join(c.KubeletDir, "pods", p.uid, "volumes", "kubernetes.io~empty-dir", name)
}

// Run makes the owner's container run as in spec. It replaces one that differs or has
// ended, as the kubelet and the manager together do.
func (c *Containerd) Run(t testing.TB, spec host.BundleSpec) {
	t.Helper()
	p := c.pods[spec.Owner.ID()]
	if p == nil || p.sandbox == "" {
		t.Fatalf("critest: no Pod %s", spec.Owner.ID())
	}
	if n := len(p.containers); n > 0 {
		same := p.spec.Image == spec.Image && slices.Equal(p.spec.Env, spec.Env) && p.spec.RulesDir == spec.RulesDir && p.spec.SecretsDir == spec.SecretsDir
		if c.status(t, p.containers[n-1]).State == cri.ContainerState_CONTAINER_RUNNING && same {
			return
		}
		c.Exit(t, spec.Owner)
	}
	p.spec = spec
	p.spec.Env = slices.Clone(spec.Env)
	c.runContainer(t, p)
}

func (c *Containerd) runContainer(t testing.TB, p *pod) {
	t.Helper()
	image := p.spec.Image
	if image == "" {
		image = c.Built
	}
	attempt := len(p.containers)
	labels := map[string]string{"io.kubernetes.container.name": "bundle"}
	maps.Copy(labels, p.config.Labels)
	for name := range labels {
		if strings.HasPrefix(name, "botbottle.dev/") {
			delete(labels, name) // as the kubelet, which leaves out a Pod's own labels
		}
	}
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "bundle", Attempt: uint32(attempt)},
		Image:    &cri.ImageSpec{Image: image, UserSpecifiedImage: image},
		Labels:   labels,
		LogPath:  fmt.Sprintf("bundle/%d.log", attempt),
		Linux:    &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{}, SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}}},
	}
	for _, e := range p.spec.Env {
		name, value, _ := strings.Cut(e, "=")
		config.Envs = append(config.Envs, &cri.KeyValue{Key: name, Value: []byte(value)})
	}
	if p.spec.Image == "" {
		for target, source := range map[string]string{bundleimage.RulesDir: c.volume(p, "rules"), bundleimage.SecretsDir: c.volume(p, "secrets")} {
			config.Mounts = append(config.Mounts, &cri.Mount{ContainerPath: target, HostPath: source, Readonly: true})
		}
	}
	ctx, cancel := bounded()
	defer cancel()
	if err := os.MkdirAll(filepath.Join(p.config.LogDirectory, "bundle"), 0o755); err != nil {
		t.Fatal(err)
	}
	made, err := c.cri.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.sandbox, Config: config, SandboxConfig: p.config})
	if err != nil {
		t.Fatalf("critest: create container in %s: %v\n%s", p.name, err, c.logTail())
	}
	if _, err := c.cri.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatalf("critest: start container in %s: %v\n%s", p.name, err, c.logTail())
	}
	p.containers = append(p.containers, made.ContainerId)
}

// Running returns the names of the Pods whose container runs.
func (c *Containerd) Running(t testing.TB) (names []string) {
	t.Helper()
	for name, p := range c.pods {
		if n := len(p.containers); n > 0 && c.status(t, p.containers[n-1]).State == cri.ContainerState_CONTAINER_RUNNING {
			names = append(names, name)
		}
	}
	return names
}

// Exit makes the owner's container end with exit code 137.
func (c *Containerd) Exit(t testing.TB, owner host.Owner) {
	t.Helper()
	ctx, cancel := bounded()
	defer cancel()
	_, err := c.cri.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: c.newest(t, owner), Timeout: 0})
	if err != nil {
		t.Fatalf("critest: stop container of %s: %v", owner.ID(), err)
	}
}

// StopSandbox stops the owner's sandbox, after which Place makes another one.
func (c *Containerd) StopSandbox(t testing.TB, owner host.Owner) {
	t.Helper()
	p := c.pods[owner.ID()]
	ctx, cancel := bounded()
	defer cancel()
	if _, err := c.cri.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		t.Fatalf("critest: stop sandbox of %s: %v", owner.ID(), err)
	}
	p.sandbox, p.containers = "", nil
}

// Reopen makes containerd write the owner's log to a new file, as the kubelet does after it
// has renamed the file.
func (c *Containerd) Reopen(t testing.TB, owner host.Owner) {
	t.Helper()
	ctx, cancel := bounded()
	defer cancel()
	if _, err := c.cri.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: c.newest(t, owner)}); err != nil {
		t.Fatal(err)
	}
}

// PID returns the pid of the first process of the owner's container.
func (c *Containerd) PID(t testing.TB, owner host.Owner) int {
	t.Helper()
	ctx, cancel := bounded()
	defer cancel()
	out, err := c.cri.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.newest(t, owner), Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		PID int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(out.Info["info"]), &info); err != nil || info.PID == 0 {
		t.Fatalf("critest: container of %s: got pid %d, %v", owner.ID(), info.PID, err)
	}
	return info.PID
}

func (c *Containerd) newest(t testing.TB, owner host.Owner) string {
	t.Helper()
	p := c.pods[owner.ID()]
	if p == nil || len(p.containers) == 0 {
		t.Fatalf("critest: Pod %s has no container", owner.ID())
	}
	return p.containers[len(p.containers)-1]
}

func (c *Containerd) status(t testing.TB, id string) *cri.ContainerStatus {
	t.Helper()
	ctx, cancel := bounded()
	defer cancel()
	out, err := c.cri.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	return out.Status
}

func (c *Containerd) removePod(t testing.TB, p *pod) {
	ctx, cancel := bounded()
	defer cancel()
	if p.sandbox == "" {
		return
	}
	if _, err := c.cri.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		t.Errorf("critest: stop sandbox of %s: %v", p.name, err)
	}
	if _, err := c.cri.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		t.Errorf("critest: remove sandbox of %s: %v", p.name, err)
	}
	p.sandbox = ""
}

// bounded returns a context that outlives the test's own, for what runs at its end.
func bounded() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), callLimit)
}
