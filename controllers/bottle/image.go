// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/namedwatch"
	"botbottle.dev/bottle-operator/internal/state"
)

// ensureImage finds what a new machine is to be made from, and has it pulled
// if need be. A machine that is there keeps what it was made from, so that
// nothing is asked of the image then.
func (r *Reconciler) ensureImage(ctx context.Context, s *scope) error {
	if s.leak != nil { // nothing is made or started before it is dealt with
		r.Images.Forget(s.owner.UID)
		s.keepImage()
		return nil
	}
	m, present, err := r.view.Get(ctx, s.name())
	if err != nil {
		return mapped(err, r.ofSmolvm(ctx))
	}
	if present && (!ours(m, s) || !wantsRecreate(s)) {
		r.Images.Forget(s.owner.UID) // the next machine asks anew
		s.keepImage()
		return nil
	}
	if s.version == (host.SmolvmVersion{}) {
		if s.version, err = r.Machines.Version(ctx); err != nil {
			return mapped(err, r.ofSmolvm(ctx))
		}
	}
	req, err := r.imageRequest(s)
	if err != nil || req.Reference == "" {
		r.Images.Forget(s.owner.UID) // what was asked for before
		s.imageFound = err == nil
		return err
	}
	var missing []string
	if req.PullSecrets, missing, err = r.pullSecrets(ctx, s); err != nil {
		return err
	}
	s.reference = req.Reference
	s.image, err = r.Images.Get(ctx, req)
	s.imageFound = err == nil
	return r.ofImages(err, missing)
}

// ofImages says what becomes of the step, in the words that Pods use.
func (r *Reconciler) ofImages(err error, missing []string) error {
	var pulling *host.Pulling
	var failed *host.PullFailed
	switch {
	case errors.As(err, &pulling): // whoever watches the images ends the wait
		return &flow.Waiting{Reason: v1alpha1.ReasonImagePulling, Message: pulling.Message}
	case errors.As(err, &failed):
		reason := v1alpha1.ReasonErrImagePull
		if failed.BackOff {
			reason = v1alpha1.ReasonImagePullBackOff
		}
		message := failed.Error()
		if len(missing) > 0 {
			message = "pull secrets that are not there, or hold no docker config: " + strings.Join(missing, ", ") + "; " + message
		}
		return &flow.Waiting{Reason: reason, Message: message, After: max(failed.Until.Sub(r.Clock.Now()), time.Second)}
	case errors.Is(err, host.ErrNeverPull):
		return &flow.Waiting{Reason: v1alpha1.ReasonImageNeverPull, After: forSomebody, Message: err.Error()}
	case errors.Is(err, host.ErrNotFound):
		return &flow.Waiting{Reason: v1alpha1.ReasonImageNotFound, After: forNode,
			Message: err.Error() + ": put the file there, or change spec.image or spec.artifact"}
	case errors.Is(err, host.ErrInvalid):
		return &flow.Terminal{Reason: v1alpha1.ReasonInvalidImageName, Err: err}
	}
	return err
}

// pullSecrets are the contents of those that are there, and the names of the
// others: no reason not to try, as for a Pod, for the image may be public.
func (r *Reconciler) pullSecrets(ctx context.Context, s *scope) (out [][]byte, missing []string, err error) {
	for _, ref := range s.bottle.Spec.ImagePullSecrets {
		data, err := r.References.Get(ctx, namedwatch.Ref{Kind: namedwatch.Secret, Namespace: s.bottle.Namespace, Name: ref.Name})
		if err != nil && !errors.Is(err, namedwatch.ErrNotFound) {
			return nil, nil, fmt.Errorf("pull secret %s: %w", ref.Name, err)
		}
		before := len(out)
		for _, key := range []string{corev1.DockerConfigJsonKey, corev1.DockerConfigKey} {
			if content, ok := data[key]; ok {
				out = append(out, content)
			}
		}
		if len(out) == before {
			missing = append(missing, ref.Name)
		}
	}
	return out, missing, nil
}

// imageRequest is what to get; without a reference for a bare machine.
func (r *Reconciler) imageRequest(s *scope) (host.ImageRequest, error) {
	spec := s.bottle.Spec
	req := host.ImageRequest{For: s.owner.UID, Policy: host.PullPolicy(ptr.Deref(spec.ImagePullPolicy, ""))}
	if a := spec.Artifact; a != nil {
		req.Artifact, req.SHA256 = true, ptr.Deref(a.SHA256, "")
		req.Reference = ptr.Deref(a.Path, ptr.Deref(a.Reference, ""))
		return req, checkArtifact(s)
	}
	req.Reference = ptr.Deref(spec.Image, "")
	switch {
	case req.Reference == "" && s.version.LocalImages:
		req.Reference = r.DefaultImage
	case req.Reference != "" && !s.version.LocalImages:
		return host.ImageRequest{}, &flow.Waiting{Reason: v1alpha1.ReasonUnsupportedBySmolvm, After: forSomebody,
			Message: fmt.Sprintf("smolvm %s on the node cannot be given an image: install 1.1.3 or newer, or leave spec.image out for a bare machine", s.version.Version)}
	}
	return req, nil
}

// watchImages has a Bottle looked at when its image comes, or does not.
func (r *Reconciler) watchImages(ctx context.Context) error {
	err := r.Images.WatchImages(ctx, r.enqueueUID)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ImageEvent makes an Event of what happened to an image that a Bottle waits
// for. It does not block.
func (r *Reconciler) ImageEvent(uid, reason, message string) {
	k, ok := r.bottles.Key(uid)
	if !ok {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		b := &v1alpha1.Bottle{}
		if err := r.Client.Get(ctx, k, b); err != nil || string(b.UID) != uid {
			return
		}
		kind := corev1.EventTypeNormal
		if reason == "Failed" || reason == "BackOff" {
			kind = corev1.EventTypeWarning
		}
		if reason == "Failed" { // once for each attempt
			logf.Log.WithName("images").Info("An image could not be had", "bottle", k, "message", message)
		}
		r.Recorder.Eventf(b, nil, kind, reason, "Pull", "%s", agentstatus.Bounded(message))
	}()
}

// UsedImages are the digests of the images of all Bottles of the node, and the
// archives that machines were made from, anybody's. An error means that it
// could not be found out.
func (r *Reconciler) UsedImages(ctx context.Context) (digests, archives map[string]bool, err error) {
	digests, archives = map[string]bool{}, map[string]bool{}
	list := &v1alpha1.BottleList{}
	if err := r.Client.List(ctx, list); err != nil {
		return nil, nil, fmt.Errorf("images in use: %w", err)
	}
	for _, b := range list.Items {
		if b.Status.Image != nil {
			digests[ptr.Deref(b.Status.Image.Digest, "")] = true
		}
	}
	owners, err := r.State.Owners()
	if err != nil {
		return nil, nil, fmt.Errorf("images in use: %w", err)
	}
	for _, o := range owners {
		folder, err := r.State.Folder(o.UID)
		if err != nil {
			return nil, nil, err
		}
		rec, err := folder.Record()
		if err != nil {
			return nil, nil, fmt.Errorf("images in use: %w", err)
		}
		if rec != nil {
			digests[rec.Digest] = true
		}
	}
	machines, err := r.Machines.ListMachines(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("images in use: %w", err)
	}
	for _, m := range machines {
		if m.Image != "" {
			archives[m.Image] = true
		}
	}
	logf.FromContext(ctx).V(1).Info("Images in use", "digests", len(digests), "archives", len(archives))
	return digests, archives, nil
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
