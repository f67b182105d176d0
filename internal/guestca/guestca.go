// SPDX-License-Identifier: Apache-2.0

// Package guestca copies the certificates that spec.bundle.caPath names from the
// container of a foreign bundle to the folder that is mounted into the guest.
package guestca

import (
	"context"
	"errors"
	"fmt"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/cabundle"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/outcome"
	"botbottle.dev/bottle-operator/internal/state"
)

// Where the guest finds the certificates.
const (
	Dir  = "/run/bottle-ca"
	File = Dir + "/bundle.pem"
)

// Delays before another try.
const (
	soon          = 2 * time.Second
	externalDelay = 30 * time.Second
)

// Copier copies certificates. All fields are required.
type Copier struct {
	Bundles host.Bundles
	Causes  outcome.Causes
}

// Copy copies the file at this path in the owner's container. It is for every pass: a
// bundle that generates its certificates generates others when its container is
// recreated. The error is the outcome of a step.
func (c Copier) Copy(ctx context.Context, owner host.Owner, path string, folder state.Folder) error {
	pem, err := c.Bundles.ReadFile(ctx, owner, path, cabundle.MaxSize)
	switch {
	case errors.Is(err, host.ErrNotFound):
		return &flow.Waiting{Reason: v1alpha1.ReasonBundleCANotFound, After: soon,
			Message: fmt.Sprintf("the bundle's container has no file %s yet: see spec.bundle.caPath, and docker logs %s on the node", path, owner.ID())}
	case errors.Is(err, host.ErrInvalid):
		return &flow.Waiting{Reason: v1alpha1.ReasonBundleCAInvalid, After: externalDelay, Message: "spec.bundle.caPath: " + err.Error()}
	case err != nil:
		return outcome.Map(err, c.Causes.Docker(ctx, v1alpha1.ReasonBundleConflict))
	}
	if err := cabundle.Check(pem); err != nil {
		return &flow.Waiting{Reason: v1alpha1.ReasonBundleCAInvalid, After: externalDelay,
			Message: fmt.Sprintf("spec.bundle.caPath %s: %v", path, err)}
	}
	return folder.WriteCA(cabundle.WithPublicRoots(pem))
}
