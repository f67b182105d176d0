// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machineview"
	"botbottle.dev/bottle-operator/internal/namedwatch"
	"botbottle.dev/bottle-operator/internal/state"
)

// imageStep provides the image or artifact that a new machine is created from.
type imageStep struct {
	images     host.Images
	machines   host.Machines
	view       *machineview.View
	references References
	causes     causes
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
		return mapError(err, g.causes.smolvm(ctx))
	}
	if present && (!ours(m, s) || !recreateRequested(s)) {
		g.images.Forget(s.owner.UID) // the next machine requests its image again
		s.keepImage()
		return nil
	}
	if s.version == (host.SmolvmVersion{}) {
		if s.version, err = g.machines.Version(ctx); err != nil {
			return mapError(err, g.causes.smolvm(ctx))
		}
	}
	req, err := g.requestFor(s)
	if err != nil || req.Reference == "" {
		g.images.Forget(s.owner.UID) // drops an earlier request
		s.imageFound = err == nil
		return err
	}
	var missing []string
	if req.PullSecrets, missing, err = g.pullSecrets(ctx, s); err != nil {
		return err
	}
	s.reference = req.Reference
	s.image, err = g.images.Get(ctx, req)
	s.imageFound = err == nil
	return g.outcome(err, missing)
}

// outcome returns the outcome of the step, with the reasons that Pods use.
func (g *imageStep) outcome(err error, missing []string) error {
	var pulling *host.Pulling
	var failed *host.PullFailed
	switch {
	case errors.As(err, &pulling): // watchImages ends the wait
		return &flow.Waiting{Reason: v1alpha1.ReasonImagePulling, Message: pulling.Message}
	case errors.As(err, &failed):
		reason := v1alpha1.ReasonErrImagePull
		if failed.BackOff {
			reason = v1alpha1.ReasonImagePullBackOff
		}
		message := failed.Error()
		if len(missing) > 0 {
			message = "Secrets in spec.imagePullSecrets: " + strings.Join(missing, ", ") +
				": create them with kubectl create secret docker-registry; " + message
		}
		return &flow.Waiting{Reason: reason, Message: message, After: max(failed.Until.Sub(g.clock.Now()), time.Second)}
	case errors.Is(err, host.ErrNeverPull):
		return &flow.Waiting{Reason: v1alpha1.ReasonImageNeverPull, After: externalDelay, Message: err.Error()}
	case errors.Is(err, host.ErrNotFound):
		return &flow.Waiting{Reason: v1alpha1.ReasonImageNotFound, After: nodeDelay,
			Message: err.Error() + ": put the file there, or change spec.image or spec.artifact"}
	case errors.Is(err, host.ErrInvalid):
		return &flow.Terminal{Reason: v1alpha1.ReasonInvalidImageName, Err: err}
	}
	return err
}

// pullSecrets returns the pull secrets, and says which ones do not exist or are
// Secrets of another type. That does not prevent the pull, as for a Pod, because
// the image may be public.
func (g *imageStep) pullSecrets(ctx context.Context, s *scope) (out []host.PullSecret, missing []string, err error) {
	for _, ref := range s.bottle.Spec.ImagePullSecrets {
		data, err := g.references.Get(ctx, namedwatch.Ref{Kind: namedwatch.Secret, Namespace: s.bottle.Namespace, Name: ref.Name})
		if err != nil && !errors.Is(err, namedwatch.ErrNotFound) {
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
