// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 has the types of the API subresources.botbottle.dev/v1alpha1,
// which the manager serves through API aggregation: what users do with a Bottle, and
// the values that agents get of the Secrets and ConfigMaps that their Bottles name.
// Nothing in this API is stored.
//
// +kubebuilder:object:generate=true
// +k8s:openapi-gen=true
// +k8s:openapi-model-package=dev.botbottle.subresources.v1alpha1
// +groupName=subresources.botbottle.dev
package v1alpha1
