// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 defines the Bottle API: types, condition types and reasons,
// labels and annotations. It contains no behaviour.
//
// +kubebuilder:object:generate=true
// +groupName=botbottle.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of this package.
var GroupVersion = schema.GroupVersion{Group: "botbottle.dev", Version: "v1alpha1"}

var schemeBuilder = runtime.NewSchemeBuilder(func(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Bottle{}, &BottleList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
})

// AddToScheme registers the types of this package in a scheme.
var AddToScheme = schemeBuilder.AddToScheme
