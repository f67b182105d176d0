// SPDX-License-Identifier: Apache-2.0

package accesscert

import (
	"context"
	"encoding/base64"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// fieldOwner owns the caBundle of the APIService.
const fieldOwner = client.FieldOwner("bottle-manager-access")

// ensureCA returns the CAs in the Secret, which it makes or rotates if it is time.
// If another replica writes at the same time, the error says so, and the next check
// reads what that one wrote.
func (a *Authority) ensureCA(ctx context.Context) (*authorities, error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: a.options.Namespace, Name: SecretName}
	err := a.options.Client.Get(ctx, key, secret)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return nil, fmt.Errorf("read secret %s: %w", key, err)
	}
	old, err := readAuthorities(secret.Data)
	if err != nil {
		return nil, fmt.Errorf("secret %s (delete it to get a new CA): %w", key, err)
	}
	want, changed, err := rotate(old, a.options.Clock.Now())
	if err != nil || !changed {
		return want, err
	}
	if secret.Data, err = want.data(); err != nil {
		return nil, err
	}
	if missing {
		secret.ObjectMeta = metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}
		secret.Type = corev1.SecretTypeTLS
		err = a.options.Client.Create(ctx, secret)
	} else {
		err = a.options.Client.Update(ctx, secret)
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return a.readCA(ctx, key)
	}
	if err != nil {
		return nil, fmt.Errorf("write secret %s: %w", key, err)
	}
	a.options.Log.Info("The CA of the access API has changed", "secret", key.String())
	return want, nil
}

// readCA reads what another replica has just written.
func (a *Authority) readCA(ctx context.Context, key client.ObjectKey) (*authorities, error) {
	secret := &corev1.Secret{}
	if err := a.options.Client.Get(ctx, key, secret); err != nil {
		return nil, fmt.Errorf("read secret %s: %w", key, err)
	}
	got, err := readAuthorities(secret.Data)
	if err != nil {
		return nil, fmt.Errorf("secret %s (delete it to get a new CA): %w", key, err)
	}
	if got == nil {
		return nil, fmt.Errorf("secret %s has no CA", key)
	}
	return got, nil
}

// ensureBundle writes the caBundle of the APIService if it differs. A missing
// APIService is left alone: uninstalling removes it first.
func (a *Authority) ensureBundle(ctx context.Context, bundle []byte) error {
	service := apiService()
	err := a.options.Client.Get(ctx, client.ObjectKey{Name: APIServiceName}, service)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read apiservice %s: %w", APIServiceName, err)
	}
	want := base64.StdEncoding.EncodeToString(bundle)
	if got, _, _ := unstructured.NestedString(service.Object, "spec", "caBundle"); got == want {
		return nil
	}
	patch := apiService()
	patch.SetUID(service.GetUID()) // so that a deleted one is not made anew
	if err := unstructured.SetNestedField(patch.Object, want, "spec", "caBundle"); err != nil {
		return fmt.Errorf("write apiservice %s: %w", APIServiceName, err)
	}
	err = a.options.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(patch), fieldOwner, client.ForceOwnership)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write apiservice %s: %w", APIServiceName, err)
	}
	return nil
}

func apiService() *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"})
	u.SetName(APIServiceName)
	return u
}
