// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// BundleDigest returns a digest of the parts of spec.bundle that are parts of a Pod: its
// image, variables and ports. The values of Secrets and ConfigMaps are not among them,
// because the kubelet reads them whenever it starts the container.
func BundleDigest(b *v1alpha1.Bottle) string {
	parts := struct {
		Image string
		Env   []v1alpha1.EnvVar
		Ports []int32
	}{Image: BundleImage(b), Ports: BundlePorts(b)}
	if b.Spec.Bundle != nil {
		parts.Env = b.Spec.Bundle.Env
	}
	data, err := json.Marshal(parts)
	if err != nil { // these types always encode
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}
