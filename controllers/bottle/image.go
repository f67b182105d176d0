// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// filePrefix marks an archive in the node's folder of local images.
const filePrefix = "file:"

// ensureImage finds what a new machine is to be made from. A machine that is
// there keeps what it was made from, so that nothing is asked of the image
// then.
func (r *Reconciler) ensureImage(ctx context.Context, s *scope) error {
	facts := r.facts.get(ctx)
	m, present, err := r.view.get(ctx, s.name())
	if err != nil {
		return mapped(err, r.ofSmolvm(facts))
	}
	if present && (!ours(m, s) || !wantsRecreate(s)) {
		s.keepImage()
		return nil
	}
	if s.version == (host.SmolvmVersion{}) {
		if s.version, err = r.Machines.Version(ctx); err != nil {
			return mapped(err, r.ofSmolvm(facts))
		}
	}
	reference, err := r.imageReference(s)
	if err != nil || reference == "" {
		return err
	}
	s.reference = reference
	s.image, err = r.Images.Get(ctx, strings.TrimPrefix(reference, filePrefix))
	if errors.Is(err, state.ErrNoImage) {
		return &flow.Waiting{Reason: v1alpha1.ReasonImageNotFound, After: forNode,
			Message: err.Error() + ": put the archive there, or change spec.image"}
	}
	return err
}

// imageReference is the file:NAME to use; "" for a bare machine.
func (r *Reconciler) imageReference(s *scope) (string, error) {
	spec := s.bottle.Spec
	if spec.Artifact != nil {
		return "", &flow.Terminal{Reason: v1alpha1.ReasonUnsupportedBySmolvm,
			Err: errors.New("spec.artifact is not yet applied: use spec.image")}
	}
	image := ptr.Deref(spec.Image, "")
	switch {
	case image == "" && !s.version.LocalImages:
		return "", nil
	case image == "":
		return r.DefaultImage, nil
	case !s.version.LocalImages:
		return "", &flow.Waiting{Reason: v1alpha1.ReasonUnsupportedBySmolvm, After: forSomebody,
			Message: fmt.Sprintf("smolvm %s on the node cannot be given an image: install 1.1.3 or newer, or leave spec.image out for a bare machine", s.version.Version)}
	case !strings.HasPrefix(image, filePrefix):
		return "", &flow.Waiting{Reason: v1alpha1.ReasonImageNotLocal, After: forSomebody,
			Message: fmt.Sprintf("images are not pulled yet: put the archive of %s into the node's folder of local images and name it as %sNAME", image, filePrefix)}
	}
	return image, nil
}

// keepImage takes from the record what the machine was made from.
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
