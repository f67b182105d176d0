// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/cabundle"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/outcome"
)

// Where the guest finds the certificates that it must trust.
const (
	guestCADir  = "/run/bottle-ca"
	guestCAFile = guestCADir + "/bundle.pem"
)

// ensureCA copies the bundle's certificates to the folder that is mounted into
// the guest. It does so on every pass: a bundle that generates its certificates
// generates others when its container is recreated.
func (t *bundleStep) ensureCA(ctx context.Context, s *scope) error {
	path := desired.CAPath(s.bottle)
	if path == "" {
		return nil
	}
	pem, err := t.bundles.ReadFile(ctx, s.owner, path, cabundle.MaxSize)
	switch {
	case errors.Is(err, host.ErrNotFound):
		return &flow.Waiting{Reason: v1alpha1.ReasonBundleCANotFound, After: soon,
			Message: fmt.Sprintf("the bundle's container has no file %s yet: see spec.bundle.caPath, and docker logs %s on the node", path, s.name())}
	case errors.Is(err, host.ErrInvalid):
		return &flow.Waiting{Reason: v1alpha1.ReasonBundleCAInvalid, After: externalDelay, Message: "spec.bundle.caPath: " + err.Error()}
	case err != nil:
		return outcome.Map(err, t.causes.Docker(ctx, v1alpha1.ReasonBundleConflict))
	}
	if err := cabundle.Check(pem); err != nil {
		return &flow.Waiting{Reason: v1alpha1.ReasonBundleCAInvalid, After: externalDelay,
			Message: fmt.Sprintf("spec.bundle.caPath %s: %v", path, err)}
	}
	return s.folder.WriteCA(cabundle.WithPublicRoots(pem))
}

// guestCA returns the path of the certificates in the guest; "" if there are none.
func guestCA(b *v1alpha1.Bottle) string {
	if desired.CAPath(b) == "" {
		return ""
	}
	return guestCAFile
}
