// SPDX-License-Identifier: Apache-2.0

// Package builders builds API objects for tests, in one line each. It sets only
// what a test specifies, except that a Bottle's slug defaults to its name.
package builders

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// Bottle is a Bottle being built.
type Bottle struct{ v1alpha1.Bottle }

// MakeBottle starts building a Bottle whose slug is its name.
func MakeBottle(name string) *Bottle {
	b := &Bottle{}
	b.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Bottle"}
	b.Name = name
	b.Spec.Slug = name
	return b
}

// Obj returns a copy of the Bottle as built so far.
func (b *Bottle) Obj() *v1alpha1.Bottle { return b.DeepCopy() }

// Namespace sets the namespace.
func (b *Bottle) Namespace(ns string) *Bottle { b.ObjectMeta.Namespace = ns; return b }

// UID sets the UID, as the API server would.
func (b *Bottle) UID(uid string) *Bottle { b.ObjectMeta.UID = types.UID(uid); return b }

// Generation sets the generation, as the API server would.
func (b *Bottle) Generation(n int64) *Bottle { b.ObjectMeta.Generation = n; return b }

// Label adds a label.
func (b *Bottle) Label(key, value string) *Bottle {
	metav1.SetMetaDataLabel(&b.ObjectMeta, key, value)
	return b
}

// Annotation adds an annotation.
func (b *Bottle) Annotation(key, value string) *Bottle {
	metav1.SetMetaDataAnnotation(&b.ObjectMeta, key, value)
	return b
}

// Finalizer adds a finalizer.
func (b *Bottle) Finalizer(name string) *Bottle {
	b.Finalizers = append(b.Finalizers, name)
	return b
}

// Deleted sets the deletion timestamp, as the API server would.
func (b *Bottle) Deleted(at time.Time) *Bottle {
	t := metav1.NewTime(at)
	b.DeletionTimestamp = &t
	return b
}

// Slug sets the slug.
func (b *Bottle) Slug(slug string) *Bottle { b.Spec.Slug = slug; return b }

// Env adds a variable with a literal value.
func (b *Bottle) Env(name, value string) *Bottle {
	b.Spec.Env = append(b.Spec.Env, v1alpha1.EnvVar{Name: name, Value: &value})
	return b
}

// EnvFromSecret adds a variable from a key of a Secret.
func (b *Bottle) EnvFromSecret(name, secret, key string) *Bottle {
	ref := &v1alpha1.KeySelector{Name: secret, Key: key}
	b.Spec.Env = append(b.Spec.Env, v1alpha1.EnvVar{Name: name, ValueFrom: &v1alpha1.EnvVarSource{SecretKeyRef: ref}})
	return b
}

// EnvFromConfigMap adds a variable from a key of a ConfigMap.
func (b *Bottle) EnvFromConfigMap(name, configMap, key string) *Bottle {
	ref := &v1alpha1.KeySelector{Name: configMap, Key: key}
	b.Spec.Env = append(b.Spec.Env, v1alpha1.EnvVar{Name: name, ValueFrom: &v1alpha1.EnvVarSource{ConfigMapKeyRef: ref}})
	return b
}

// Image sets the guest's image.
func (b *Bottle) Image(ref string) *Bottle { b.Spec.Image = &ref; return b }

// ArtifactPath sets the artifact's path.
func (b *Bottle) ArtifactPath(path string) *Bottle {
	b.Spec.Artifact = &v1alpha1.Artifact{Path: &path}
	return b
}

// Command sets the guest's command.
func (b *Bottle) Command(argv ...string) *Bottle { b.Spec.Command = argv; return b }

// CPUs sets the machine's virtual CPUs.
func (b *Bottle) CPUs(n int32) *Bottle { b.machine().CPUs = &n; return b }

// Memory sets the machine's memory.
func (b *Bottle) Memory(quantity string) *Bottle {
	q := resource.MustParse(quantity)
	b.machine().Memory = &q
	return b
}

// BundleImage sets the bundle's image.
func (b *Bottle) BundleImage(ref string) *Bottle { b.bundle().Image = &ref; return b }

// BundlePorts sets the bundle's ports.
func (b *Bottle) BundlePorts(ports ...int32) *Bottle { b.bundle().Ports = ports; return b }

// Allow adds egress rules.
func (b *Bottle) Allow(rules ...v1alpha1.EgressRule) *Bottle {
	if b.Spec.Egress == nil {
		b.Spec.Egress = &v1alpha1.Egress{}
	}
	b.Spec.Egress.Allow = append(b.Spec.Egress.Allow, rules...)
	return b
}

// Rules adds rules for opened hosts.
func (b *Bottle) Rules(rules ...v1alpha1.HTTPRule) *Bottle {
	if b.Spec.Egress == nil {
		b.Spec.Egress = &v1alpha1.Egress{}
	}
	b.Spec.Egress.Rules = append(b.Spec.Egress.Rules, rules...)
	return b
}

// Stopped sets desiredState to Stopped.
func (b *Bottle) Stopped() *Bottle { b.Spec.DesiredState = v1alpha1.DesiredStateStopped; return b }

// Pin sets spec.nodeName.
func (b *Bottle) Pin(node string) *Bottle { b.Spec.NodeName = &node; return b }

// NodeSelector adds a required node label.
func (b *Bottle) NodeSelector(key, value string) *Bottle {
	s := b.scheduling()
	if s.NodeSelector == nil {
		s.NodeSelector = map[string]string{}
	}
	s.NodeSelector[key] = value
	return b
}

// Toleration adds a toleration.
func (b *Bottle) Toleration(t corev1.Toleration) *Bottle {
	s := b.scheduling()
	s.Tolerations = append(s.Tolerations, t)
	return b
}

// Affinity sets the affinity.
func (b *Bottle) Affinity(a *corev1.Affinity) *Bottle { b.scheduling().Affinity = a; return b }

// On sets status.nodeName.
func (b *Bottle) On(node string) *Bottle { b.Status.NodeName = &node; return b }

// Booked sets status.resources.
func (b *Bottle) Booked(cpus int32, memory string) *Bottle {
	b.Status.Resources = &v1alpha1.ResourcesStatus{CPUs: cpus, Memory: resource.MustParse(memory)}
	return b
}

// Condition adds a condition.
func (b *Bottle) Condition(c metav1.Condition) *Bottle {
	b.Status.Conditions = append(b.Status.Conditions, c)
	return b
}

func (b *Bottle) machine() *v1alpha1.Machine {
	if b.Spec.Machine == nil {
		b.Spec.Machine = &v1alpha1.Machine{}
	}
	return b.Spec.Machine
}

func (b *Bottle) bundle() *v1alpha1.Bundle {
	if b.Spec.Bundle == nil {
		b.Spec.Bundle = &v1alpha1.Bundle{}
	}
	return b.Spec.Bundle
}

func (b *Bottle) scheduling() *v1alpha1.Scheduling {
	if b.Spec.Scheduling == nil {
		b.Spec.Scheduling = &v1alpha1.Scheduling{}
	}
	return b.Spec.Scheduling
}
