// SPDX-License-Identifier: Apache-2.0

// Package envsource reads the values of a Bottle's variables from the Secrets
// and ConfigMaps that they name. It does not talk to the API server: a Reader gives it
// the objects.
package envsource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/namedwatch"
)

// Errors of a Reader. An event ends each of them.
var (
	// ErrNotFound means that the object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrNotYet means that the manager has not said yet what the object is.
	ErrNotYet = errors.New("not read yet")
	// ErrForbidden means that the manager may not read the object.
	ErrForbidden = errors.New("forbidden")
	// ErrTooLarge means that what the Bottle names is too large to be passed on.
	ErrTooLarge = errors.New("too large")
)

// Need is an object that a Bottle names, and the keys of it that the Bottle names.
type Need struct {
	namedwatch.Ref
	Keys []string // sorted
}

// Needs returns all Secrets and ConfigMaps that the Bottle names, for its guest, its
// image, its bundle and the credentials of its rules, sorted by kind and name.
func Needs(b *v1alpha1.Bottle) []Need {
	keys := map[namedwatch.Ref]map[string]bool{}
	add := func(ref namedwatch.Ref, names ...string) {
		if keys[ref] == nil {
			keys[ref] = map[string]bool{}
		}
		for _, name := range names {
			keys[ref][name] = true
		}
	}
	vars := b.Spec.Env
	if b.Spec.Bundle != nil {
		vars = slices.Concat(vars, b.Spec.Bundle.Env)
	}
	for _, v := range vars {
		if ref, sel, ok := reference(b.Namespace, v); ok {
			add(ref, sel.Key)
		}
	}
	for _, s := range b.Spec.ImagePullSecrets {
		add(namedwatch.Ref{Kind: namedwatch.Secret, Namespace: b.Namespace, Name: s.Name}, corev1.DockerConfigJsonKey, corev1.DockerConfigKey)
	}
	if b.Spec.Egress != nil {
		for _, rule := range b.Spec.Egress.Rules {
			if c := rule.Credential; c != nil {
				add(namedwatch.Ref{Kind: namedwatch.Secret, Namespace: b.Namespace, Name: c.SecretKeyRef.Name}, c.SecretKeyRef.Key)
			}
		}
	}
	needs := make([]Need, 0, len(keys))
	for ref, names := range keys {
		needs = append(needs, Need{Ref: ref, Keys: slices.Sorted(maps.Keys(names))})
	}
	slices.SortFunc(needs, func(a, b Need) int {
		return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name))
	})
	return needs
}

func reference(namespace string, v v1alpha1.EnvVar) (namedwatch.Ref, v1alpha1.KeySelector, bool) {
	switch {
	case v.ValueFrom == nil:
		return namedwatch.Ref{}, v1alpha1.KeySelector{}, false
	case v.ValueFrom.SecretKeyRef != nil:
		sel := *v.ValueFrom.SecretKeyRef
		return namedwatch.Ref{Kind: namedwatch.Secret, Namespace: namespace, Name: sel.Name}, sel, true
	case v.ValueFrom.ConfigMapKeyRef != nil:
		sel := *v.ValueFrom.ConfigMapKeyRef
		return namedwatch.Ref{Kind: namedwatch.ConfigMap, Namespace: namespace, Name: sel.Name}, sel, true
	}
	return namedwatch.Ref{}, v1alpha1.KeySelector{}, false
}

// Reader knows the Secrets and ConfigMaps that Bottles name.
type Reader interface {
	// Get returns the data of an object that b names, at least the keys that b names.
	// The error is one of this package's.
	Get(ctx context.Context, b *v1alpha1.Bottle, ref namedwatch.Ref) (map[string][]byte, error)
}

// Object is a Secret or ConfigMap that a Bottle names.
type Object struct {
	// Data has at least the keys that the Bottle names, as far as the object has them.
	Data            map[string][]byte
	ResourceVersion string
}

// Peeker tells what is known now. It is for what must not wait.
type Peeker interface {
	// Peek is like Reader's Get, but never waits.
	Peek(b *v1alpha1.Bottle, ref namedwatch.Ref) (Object, error)
}

// Read returns the data of an object that b names. The error is ErrNotFound, or a
// *flow.Waiting if the object cannot be read now.
func Read(ctx context.Context, r Reader, b *v1alpha1.Bottle, ref namedwatch.Ref) (map[string][]byte, error) {
	data, err := r.Get(ctx, b, ref)
	switch {
	case errors.Is(err, ErrNotYet):
		return nil, &flow.Waiting{Reason: v1alpha1.ReasonEnvironmentNotReady,
			Message: fmt.Sprintf("the manager has not told this node yet what %s %q contains: if this lasts, look at the Deployment bottle-manager and the APIService v1alpha1.subresources.botbottle.dev", noun(ref), ref.Name)}
	case errors.Is(err, ErrForbidden):
		return nil, &flow.Waiting{Reason: v1alpha1.ReasonEnvironmentForbidden,
			Message: fmt.Sprintf("the manager may not read %s %q: give its ServiceAccount the verbs get, list and watch on %s in namespace %s, as with a RoleBinding to the ClusterRole bottle-manager-environments", noun(ref), ref.Name, ref.Kind, ref.Namespace)}
	case errors.Is(err, ErrTooLarge):
		return nil, &flow.Waiting{Reason: v1alpha1.ReasonEnvInvalid,
			Message: fmt.Sprintf("%s %q does not fit: the values that a Bottle takes from Secrets and ConfigMaps may have 4 MiB together, and those of all Bottles of a node 256 MiB", noun(ref), ref.Name)}
	}
	return data, err
}

func noun(ref namedwatch.Ref) string {
	if ref.Kind == namedwatch.ConfigMap {
		return "ConfigMap"
	}
	return "Secret"
}

// Resolve returns the values of variables of b. If an object or a key is missing, or
// cannot be read now, the error is a *flow.Waiting, and an event ends the wait.
func Resolve(ctx context.Context, r Reader, b *v1alpha1.Bottle, vars []v1alpha1.EnvVar) ([]guestenv.Var, error) {
	out := make([]guestenv.Var, 0, len(vars))
	for _, v := range vars {
		ref, sel, ok := reference(b.Namespace, v)
		if !ok {
			out = append(out, guestenv.Var{Name: v.Name, Value: ptr.Deref(v.Value, "")})
			continue
		}
		value, found, err := value(ctx, r, b, source{ref, sel})
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", v.Name, err)
		}
		if found {
			out = append(out, guestenv.Var{Name: v.Name, Value: value, Secret: ref.Kind == namedwatch.Secret})
		}
	}
	return out, nil
}

// source is where a value comes from.
type source struct {
	namedwatch.Ref
	v1alpha1.KeySelector
}

func value(ctx context.Context, r Reader, b *v1alpha1.Bottle, from source) (string, bool, error) {
	reason, noun := v1alpha1.ReasonSecretNotFound, noun(from.Ref)
	if from.Kind == namedwatch.ConfigMap {
		reason = v1alpha1.ReasonConfigMapNotFound
	}
	optional := ptr.Deref(from.Optional, false)
	data, err := Read(ctx, r, b, from.Ref)
	switch {
	case errors.Is(err, ErrNotFound) && optional:
		return "", false, nil
	case errors.Is(err, ErrNotFound):
		return "", false, &flow.Waiting{Reason: reason,
			Message: fmt.Sprintf("%s %q does not exist: create it, or mark the reference optional", noun, from.Ref.Name)}
	case err != nil:
		return "", false, err
	}
	value, ok := data[from.Key]
	switch {
	case ok:
		return string(value), true, nil
	case optional:
		return "", false, nil
	}
	return "", false, &flow.Waiting{Reason: reason,
		Message: fmt.Sprintf("%s %q has no key %q: add it, or mark the reference optional", noun, from.Ref.Name, from.Key)}
}
