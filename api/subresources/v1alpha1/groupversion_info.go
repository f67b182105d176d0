// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of this package.
var GroupVersion = schema.GroupVersion{Group: "subresources.botbottle.dev", Version: "v1alpha1"}

// AddToScheme registers the types of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&BottleExecOptions{}, &BottleAttachOptions{}, &BottleLogOptions{}, &BottleAction{}, &BottleProof{},
		&BottleEnvironment{}, &BottleEnvironmentList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
