// SPDX-License-Identifier: Apache-2.0

package placeholder

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

const (
	// Container is the name of the Pod's only container. Earlier managers made Pods with
	// the container "placeholder", which is no bundle.
	Container = "bundle"
	// RulesVolume is the name of the volume of the built-in bundle's rules. It is empty
	// until the agent writes to it from the node.
	RulesVolume = "rules"
	// SecretsVolume is the name of the volume of the built-in bundle's secrets. It is empty
	// until the agent writes to it from the node.
	SecretsVolume = "secrets"
)

// volumeSize limits each of the two volumes. It has room for the largest file of secrets
// (brokerfile.MaxSize), and for a file that replaces it. What the files use is booked
// with the agent's memory, because the agent writes them.
var volumeSize = resource.MustParse("20Mi")

// container returns the bundle. It requests what the machine, its VMM and the bundle use
// together, because they share the Pod's limits.
func container(b *v1alpha1.Bottle, r v1alpha1.ResourcesStatus, o Options) corev1.Container {
	c := corev1.Container{
		Name:            Container,
		Image:           foreignImage(b),
		ImagePullPolicy: corev1.PullIfNotPresent,
		Env:             env(b),
		Ports:           ports(b),
		Resources:       requirements(r, o),
		SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: ptr.To(false)},
	}
	if c.Image != "" {
		c.SecurityContext.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"NET_RAW"}}
		return c
	}
	c.Image = o.BundleImage
	c.Command = append(slices.Clone(bundleimage.Entrypoint), "--ignore-sigterm",
		"--interface", host.Owner{UID: string(b.UID)}.Bridge(),
		"--memory-limit", strconv.FormatInt(machinesize.BundleOf(&r).MemoryBytes, 10))
	c.SecurityContext.ReadOnlyRootFilesystem = ptr.To(true)
	c.SecurityContext.Capabilities = &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: RulesVolume, MountPath: bundleimage.RulesDir, ReadOnly: true},
		{Name: SecretsVolume, MountPath: bundleimage.SecretsDir, ReadOnly: true},
	}
	return c
}

// requirements returns what is booked for a Bottle.
func requirements(r v1alpha1.ResourcesStatus, o Options) corev1.ResourceRequirements {
	if r.Overhead == nil { // an earlier manager placed the Bottle
		r.Overhead = &v1alpha1.OverheadResources{CPU: &o.OverheadCPU, Memory: &o.OverheadMemory}
	}
	cpu := *resource.NewQuantity(int64(r.CPUs), resource.DecimalSI)
	cpu.Add(ptr.Deref(r.Overhead.CPU, resource.Quantity{}))
	memory := r.Memory.DeepCopy()
	memory.Add(ptr.Deref(r.Overhead.Memory, resource.Quantity{}))
	// An earlier manager recorded no limits of the bundle; the agent then applies
	// the defaults.
	bundle := machinesize.BundleOf(&r).Status()
	cpu.Add(bundle.CPU)
	memory.Add(bundle.Memory)
	// Limits equal requests: extended resources require that, and quotas on
	// either then count what a Bottle really uses.
	list := corev1.ResourceList{
		corev1.ResourceCPU:      cpu,
		corev1.ResourceMemory:   memory,
		v1alpha1.ResourceBottle: resource.MustParse("1"),
	}
	if r.Disk != nil {
		list[corev1.ResourceEphemeralStorage] = r.Disk.DeepCopy()
	}
	return corev1.ResourceRequirements{Requests: list, Limits: list.DeepCopy()}
}

// foreignImage returns the image of spec.bundle that the Pod is to run, or "" for the
// built-in one. Where Docker runs the bundle, the Pod runs the built-in one, so that no
// foreign image runs twice.
func foreignImage(b *v1alpha1.Bottle) string {
	if inDocker(b) {
		return ""
	}
	return desired.BundleImage(b)
}

// inDocker reports whether Docker runs the Bottle's bundle.
func inDocker(b *v1alpha1.Bottle) bool {
	return desired.BundleRuntime(b) == v1alpha1.BundleRuntimeDocker
}

// RunsTwice reports whether the Bottle's Pod runs a foreign image that Docker runs, too. The
// manager makes such a Pod while it does not know which runtime the Bottle's node will have.
// Only a Pod of the built-in bundle has a command.
func RunsTwice(pod *corev1.Pod, b *v1alpha1.Bottle) bool {
	return inDocker(b) && slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool {
		return c.Name == Container && len(c.Command) == 0
	})
}

// Forbidden returns the image that the Bottle's placeholder would run although none of
// the globs allows it, or "".
func Forbidden(b *v1alpha1.Bottle, globs []string) string {
	if image := foreignImage(b); image != "" && !desired.BundleImageAllowed(image, globs) {
		return image
	}
	return ""
}

func env(b *v1alpha1.Bottle) []corev1.EnvVar {
	if b.Spec.Bundle == nil {
		return nil
	}
	var vars []corev1.EnvVar
	for _, v := range b.Spec.Bundle.Env {
		// The kubelet expands $(VAR), and takes $$ for $. Values are literal.
		e := corev1.EnvVar{Name: v.Name, Value: strings.ReplaceAll(ptr.Deref(v.Value, ""), "$", "$$")}
		if from := v.ValueFrom; from != nil {
			e.ValueFrom = &corev1.EnvVarSource{}
			if s := from.SecretKeyRef; s != nil {
				e.ValueFrom.SecretKeyRef = &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: s.Name}, Key: s.Key, Optional: s.Optional}
			}
			if m := from.ConfigMapKeyRef; m != nil {
				e.ValueFrom.ConfigMapKeyRef = &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: m.Name}, Key: m.Key, Optional: m.Optional}
			}
		}
		vars = append(vars, e)
	}
	return vars
}

func ports(b *v1alpha1.Bottle) []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	for _, p := range desired.BundlePorts(b) {
		ports = append(ports, corev1.ContainerPort{ContainerPort: p, Protocol: corev1.ProtocolTCP})
	}
	return ports
}

func pullSecrets(b *v1alpha1.Bottle) []corev1.LocalObjectReference {
	var secrets []corev1.LocalObjectReference
	for _, s := range b.Spec.ImagePullSecrets {
		secrets = append(secrets, corev1.LocalObjectReference{Name: s.Name})
	}
	return secrets
}

func volumes() []corev1.Volume {
	var volumes []corev1.Volume
	for _, name := range []string{RulesVolume, SecretsVolume} {
		size := volumeSize.DeepCopy()
		volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size},
		}})
	}
	return volumes
}
