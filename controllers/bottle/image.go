// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"fmt"

	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machineview"
	"botbottle.dev/bottle-operator/internal/outcome"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/workload"
)

// imageStep provides the image or artifact that a new machine is created from.
type imageStep struct {
	images     host.Images
	machines   host.Machines
	view       *machineview.View
	references envsource.Reader
	causes     outcome.Causes
	clock      clock.Clock
	// defaultImage is for Bottles that name no image; "" means a bare machine.
	defaultImage string
}

// ensure reports how the request for the image ended.
func (g *imageStep) ensure(_ context.Context, s *scope) error { return s.imageErr }

// request looks up the image for a new machine, and requests a pull if needed.
func (g *imageStep) request(ctx context.Context, s *scope) { s.imageErr = g.find(ctx, s) }

// find finds the image for a new machine. An existing machine keeps its image, so it
// needs none.
func (g *imageStep) find(ctx context.Context, s *scope) error {
	if s.leak != nil { // no machine is created or started until the leak is acknowledged
		g.images.Forget(s.owner.UID)
		s.keepImage()
		return nil
	}
	m, present, err := g.view.Get(ctx, s.name())
	if err != nil {
		return outcome.Map(err, g.causes.Smolvm(ctx))
	}
	if present && (!ours(m, s) || !workload.Recreated(s.bottle, s.record)) {
		g.images.Forget(s.owner.UID) // the next machine requests its image again
		s.keepImage()
		return nil
	}
	if s.version == (host.SmolvmVersion{}) {
		if s.version, err = g.machines.Version(ctx); err != nil {
			return outcome.Map(err, g.causes.Smolvm(ctx))
		}
	}
	req, err := g.requestFor(s)
	if err != nil || req.Reference == "" {
		g.images.Forget(s.owner.UID) // drops an earlier request
		s.imageFound = err == nil
		return err
	}
	var missing []string
	if req.PullSecrets, missing, err = envsource.PullSecrets(ctx, g.references, s.bottle); err != nil {
		return err
	}
	s.reference = req.Reference
	s.image, err = g.images.Get(ctx, req)
	s.imageFound = err == nil
	return outcome.Image(err, missing, g.clock.Now())
}

// requestFor returns what to get. The reference is empty for a bare machine.
func (g *imageStep) requestFor(s *scope) (host.ImageRequest, error) {
	spec := s.bottle.Spec
	req := host.ImageRequest{For: s.owner.UID, Namespace: s.owner.Namespace, Policy: host.PullPolicy(ptr.Deref(spec.ImagePullPolicy, ""))}
	if a := spec.Artifact; a != nil {
		req.Artifact, req.SHA256 = true, ptr.Deref(a.SHA256, "")
		req.Reference = ptr.Deref(a.Path, ptr.Deref(a.Reference, ""))
		return req, checkArtifact(s)
	}
	req.Reference = ptr.Deref(spec.Image, "")
	switch {
	case req.Reference == "" && s.version.LocalImages:
		req.Reference = g.defaultImage
	case req.Reference != "" && !s.version.LocalImages:
		return host.ImageRequest{}, &flow.Waiting{Reason: v1alpha1.ReasonUnsupportedBySmolvm, After: externalDelay,
			Message: fmt.Sprintf("smolvm %s on the node cannot create machines from images: install 1.1.3 or newer, or omit spec.image for a bare machine", s.version.Version)}
	}
	return req, nil
}

// keepImage reads from the record which image the machine was created from.
func (s *scope) keepImage() {
	if s.record == nil || s.record.Reference == "" {
		return
	}
	s.reference = s.record.Reference
	s.status.Image = imageStatus(s.record)
}

func imageStatus(rec *state.Record) *v1alpha1.ImageStatus {
	if rec.Reference == "" {
		return nil
	}
	return &v1alpha1.ImageStatus{Reference: rec.Reference, Digest: ptr.To(rec.Digest)}
}
