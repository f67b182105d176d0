// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/namedwatch"
)

// references are all objects that the Bottle names, for its guest, its image
// and its bundle.
func references(b *v1alpha1.Bottle) []namedwatch.Ref {
	var refs []namedwatch.Ref
	add := func(vars []v1alpha1.EnvVar) {
		for _, v := range vars {
			if ref, _, ok := reference(b.Namespace, v); ok {
				refs = append(refs, ref)
			}
		}
	}
	add(b.Spec.Env)
	for _, s := range b.Spec.ImagePullSecrets {
		refs = append(refs, namedwatch.Ref{Kind: namedwatch.Secret, Namespace: b.Namespace, Name: s.Name})
	}
	if b.Spec.Bundle != nil {
		add(b.Spec.Bundle.Env)
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

// resolve reads the values of vars. What is missing is a *flow.Waiting: the
// watch of the object ends the wait.
func (r *Reconciler) resolve(ctx context.Context, s *scope, vars []v1alpha1.EnvVar) ([]guestenv.Var, error) {
	out := make([]guestenv.Var, 0, len(vars))
	for _, v := range vars {
		ref, sel, ok := reference(s.bottle.Namespace, v)
		if !ok {
			out = append(out, guestenv.Var{Name: v.Name, Value: ptr.Deref(v.Value, "")})
			continue
		}
		value, found, err := r.value(ctx, ref, sel)
		if err != nil {
			return nil, fmt.Errorf("env %s: %w", v.Name, err)
		}
		if found {
			out = append(out, guestenv.Var{Name: v.Name, Value: value, Secret: ref.Kind == namedwatch.Secret})
		}
	}
	return out, nil
}

func (r *Reconciler) value(ctx context.Context, ref namedwatch.Ref, sel v1alpha1.KeySelector) (string, bool, error) {
	reason, noun := v1alpha1.ReasonSecretNotFound, "Secret"
	if ref.Kind == namedwatch.ConfigMap {
		reason, noun = v1alpha1.ReasonConfigMapNotFound, "ConfigMap"
	}
	optional := ptr.Deref(sel.Optional, false)
	data, err := r.References.Get(ctx, ref)
	switch {
	case errors.Is(err, namedwatch.ErrNotFound) && optional:
		return "", false, nil
	case errors.Is(err, namedwatch.ErrNotFound):
		return "", false, &flow.Waiting{Reason: reason,
			Message: fmt.Sprintf("%s %q is not there: create it, or mark the reference optional", noun, ref.Name)}
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
