// SPDX-License-Identifier: Apache-2.0

package agentstatus

import "botbottle.dev/bottle-operator/api/v1alpha1"

// Egress returns what the status says about egress, or nil if that is nothing.
func Egress(e v1alpha1.EgressStatus) *v1alpha1.EgressStatus {
	if e.Leak == nil && len(e.RecentDenials) == 0 && len(e.Credentials) == 0 {
		return nil
	}
	return &e
}
