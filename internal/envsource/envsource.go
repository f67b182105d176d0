// SPDX-License-Identifier: Apache-2.0

// Package envsource reads the values of a Bottle's variables from the Secrets
// and ConfigMaps that they name.
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

// Errors of a Reader. Each ends with an event: a Bottle is reconciled when what is
// known of its objects changes.
var (
	// ErrNotFound means that the object does not exist.
	ErrNotFound = namedwatch.ErrNotFound
	// ErrNotYet means that the manager has not said yet what the object is.
	ErrNotYet = namedwatch.ErrNotYet
	// ErrForbidden means that the manager may not read the object.
	ErrForbidden = errors.New("the manager may not read it")
	// ErrTooLarge means that what the Bottle names is too large to be passed on.
	ErrTooLarge = errors.New("too large")
)

// Need is an object that a Bottle names, and the keys of it that the Bottle names.
type Need struct {
	namedwatch.Ref
	Keys []string // sorted
}

// Needs returns all Secrets and ConfigMaps that the Bottle names, for its guest, its
// image and its bundle, sorted by kind and name.
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
	needs := make([]Need, 0, len(keys))
	for ref, names := range keys {
		needs = append(needs, Need{Ref: ref, Keys: slices.Sorted(maps.Keys(names))})
	}
	slices.SortFunc(needs, func(a, b Need) int {
		return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name))
	})
	return needs
}

// References returns all Secrets and ConfigMaps that the Bottle names.
func References(b *v1alpha1.Bottle) []namedwatch.Ref {
	var refs []namedwatch.Ref
	for _, n := range Needs(b) {
		refs = append(refs, n.Ref)
	}
	return refs
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

// Reader reads Secrets and ConfigMaps by name.
type Reader interface {
	// Get returns the data of a named object. The error is
	// namedwatch.ErrNotFound if the object does not exist, and
	// namedwatch.ErrNotYet if that is not known yet.
	Get(ctx context.Context, ref namedwatch.Ref) (map[string][]byte, error)
}

// Resolve reads the values of the variables of a Bottle in this namespace. If an
// object or a key is missing, the error is a *flow.Waiting; the watch of the
// object ends the wait.
func Resolve(ctx context.Context, r Reader, namespace string, vars []v1alpha1.EnvVar) ([]guestenv.Var, error) {
	out := make([]guestenv.Var, 0, len(vars))
	for _, v := range vars {
		ref, sel, ok := reference(namespace, v)
		if !ok {
			out = append(out, guestenv.Var{Name: v.Name, Value: ptr.Deref(v.Value, "")})
			continue
		}
		value, found, err := value(ctx, r, ref, sel)
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", v.Name, err)
		}
		if found {
			out = append(out, guestenv.Var{Name: v.Name, Value: value, Secret: ref.Kind == namedwatch.Secret})
		}
	}
	return out, nil
}

func value(ctx context.Context, r Reader, ref namedwatch.Ref, sel v1alpha1.KeySelector) (string, bool, error) {
	reason, noun := v1alpha1.ReasonSecretNotFound, "Secret"
	if ref.Kind == namedwatch.ConfigMap {
		reason, noun = v1alpha1.ReasonConfigMapNotFound, "ConfigMap"
	}
	optional := ptr.Deref(sel.Optional, false)
	data, err := r.Get(ctx, ref)
	switch {
	case errors.Is(err, namedwatch.ErrNotFound) && optional:
		return "", false, nil
	case errors.Is(err, namedwatch.ErrNotFound):
		return "", false, &flow.Waiting{Reason: reason,
			Message: fmt.Sprintf("%s %q does not exist: create it, or mark the reference optional", noun, ref.Name)}
	case err != nil:
		return "", false, err
	}
	value, ok := data[sel.Key]
	switch {
	case ok:
		return string(value), true, nil
	case optional:
		return "", false, nil
	}
	return "", false, &flow.Waiting{Reason: reason,
		Message: fmt.Sprintf("%s %q has no key %q: add it, or mark the reference optional", noun, ref.Name, sel.Key)}
}
