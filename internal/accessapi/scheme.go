// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
)

// newScheme returns a scheme with the types of this API. The server's library
// converts between a version and an internal one; both have the same types here.
func newScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := subresources.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("scheme: %w", err)
	}
	internal := schema.GroupVersion{Group: subresources.GroupVersion.Group, Version: runtime.APIVersionInternal}
	s.AddKnownTypes(internal,
		&subresources.BottleExecOptions{}, &subresources.BottleAttachOptions{}, &subresources.BottleLogOptions{},
		&subresources.BottleAction{}, &subresources.BottleProof{},
		&subresources.BottleEnvironment{}, &subresources.BottleEnvironmentList{})

	unversioned := schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(s, unversioned)
	s.AddUnversionedTypes(unversioned,
		&metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	return s, nil
}
