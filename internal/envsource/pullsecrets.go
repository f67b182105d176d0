// SPDX-License-Identifier: Apache-2.0

package envsource

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/namedwatch"
)

// PullSecrets returns the pull secrets, and says which ones do not exist or are
// Secrets of another type. That does not prevent the pull, as for a Pod, because
// the image may be public.
func PullSecrets(ctx context.Context, references Reader, b *v1alpha1.Bottle) (out []host.PullSecret, missing []string, err error) {
	for _, ref := range b.Spec.ImagePullSecrets {
		data, err := Read(ctx, references, b, namedwatch.Ref{Kind: namedwatch.Secret, Namespace: b.Namespace, Name: ref.Name})
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, nil, fmt.Errorf("pull secret %s: %w", ref.Name, err)
		}
		before := len(out)
		for _, key := range []string{corev1.DockerConfigJsonKey, corev1.DockerConfigKey} {
			if content, ok := data[key]; ok {
				out = append(out, host.PullSecret{Name: ref.Name, Content: content})
			}
		}
		switch {
		case err != nil:
			missing = append(missing, ref.Name+" does not exist")
		case len(out) == before:
			missing = append(missing, ref.Name+" has neither .dockerconfigjson nor .dockercfg")
		}
	}
	return out, missing, nil
}
