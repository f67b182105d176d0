// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bundleports"
	"botbottle.dev/bottle-operator/internal/denials"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/guestca"
	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/outcome"
)

// bundleStep runs the sidecar container, with its rules and certificates.
type bundleStep struct {
	references  envsource.Reader
	bundles     host.Bundles
	enforcement enforce.Enforcement
	denials     *denials.Follower
	broker      *brokerStep
	causes      outcome.Causes
	clock       clock.Clock
	// allowedImages are globs (path.Match) for spec.bundle.image.
	allowedImages []string
}

// ensure runs the sidecar container at its address and waits until it answers.
func (t *bundleStep) ensure(ctx context.Context, s *scope) error {
	spec, rules, err := t.spec(ctx, s)
	if err != nil {
		return err
	}
	if spec.RulesDir != "" {
		if err := t.enforcement.OpenRules(s.owner, s.bottle.Generation, rules); err != nil {
			return err
		}
	}
	reasons := t.causes.Docker(ctx, v1alpha1.ReasonBundleConflict)
	reasons.Invalid = v1alpha1.ReasonBundleRejected
	b, err := t.bundles.EnsureBundle(ctx, spec)
	if errors.Is(err, host.ErrNotFound) {
		return &flow.Waiting{Reason: v1alpha1.ReasonBundleImageMissing, After: externalDelay,
			Message: fmt.Sprintf("the node's Docker Engine lacks the bundle image %s: pull or load it there", imageOrBuiltIn(spec.Image))}
	}
	if err != nil {
		return outcome.Map(err, reasons)
	}
	// An earlier agent has already counted the old decisions of a container
	// that it reported.
	var since time.Time
	if s.status.Bundle != nil && ptr.Deref(s.status.Bundle.ContainerID, "") == b.ContainerID {
		since = t.clock.Now()
	}
	s.status.Bundle = &v1alpha1.BundleStatus{Name: s.name(), ContainerID: ptr.To(b.ContainerID), Image: ptr.To(b.Image)}
	if b.ContainerID == "" {
		s.status.Bundle.ContainerID = nil
	}
	if b.OutOfMemory {
		return &flow.Waiting{Reason: v1alpha1.ReasonBundleOutOfMemory, After: soon,
			Message: fmt.Sprintf("the bundle's container needed more than its %d MiB of memory and was killed; it starts again in a few seconds: if this repeats, raise the manager's --bundle-memory, which applies to Bottles that are placed from then on", spec.Limits.MemoryBytes>>20)}
	}
	if !b.Running {
		return &flow.Waiting{Reason: v1alpha1.ReasonBundleStarting, After: soon,
			Message: fmt.Sprintf("the bundle's container is %s: see docker logs %s on the node", b.State, s.name())}
	}
	s.container = b.ContainerID
	fresh := t.clock.Since(b.StartedAt) < startingTime
	patience := time.Duration(0)
	if fresh {
		patience = bundleports.Patience
	}
	silent, err := bundleports.Silent(ctx, t.bundles, bundleports.At{Owner: s.owner, IP: s.triple.BundleIP, Ports: desired.BundlePorts(s.bottle)}, patience)
	switch {
	case err != nil:
		return outcome.Map(err, reasons)
	case len(silent) == 0:
		t.follow(s, since)
		if path := desired.CAPath(s.bottle); path != "" {
			return guestca.Copier{Bundles: t.bundles, Causes: t.causes}.Copy(ctx, s.owner, path, s.folder)
		}
		return nil
	case fresh:
		return &flow.Waiting{Reason: v1alpha1.ReasonBundleStarting, After: soon,
			Message: "the bundle's container was started and does not answer yet"}
	}
	return &flow.Waiting{Reason: v1alpha1.ReasonBundleNotAnswering, After: soon,
		Message: fmt.Sprintf("the bundle does not answer on TCP port %s: see docker logs %s on the node, and spec.bundle.ports", join(silent), s.name())}
}

// startingTime is how long a container may take to answer after its start.
const startingTime = 5 * time.Second

// spec returns the bundle to run, and the rules of the built-in one.
func (t *bundleStep) spec(ctx context.Context, s *scope) (spec host.BundleSpec, rules egress.Set, err error) {
	spec = host.BundleSpec{Owner: s.owner, IP: s.triple.BundleIP, Limits: machinesize.BundleOf(s.bottle.Status.Resources)}
	if b := s.bottle.Spec.Bundle; b != nil {
		spec.Image = ptr.Deref(b.Image, "")
		env, err := envsource.Resolve(ctx, t.references, s.bottle, b.Env)
		if err != nil {
			return spec, rules, err
		}
		for _, v := range env {
			if err := guestenv.Check(v); err != nil {
				return spec, rules, invalidEnv(err)
			}
			spec.Env = append(spec.Env, v.Name+"="+v.Value)
		}
	}
	if spec.Image != "" {
		return spec, rules, t.checkImage(spec.Image)
	}
	spec.RulesDir, spec.SecretsDir = s.folder.BundleDir(), s.secretsDir
	rules, err = desired.EgressRules(s.bottle)
	if err != nil {
		return spec, rules, &flow.Terminal{Reason: v1alpha1.ReasonEgressRuleInvalid, Err: err}
	}
	if s.refused != nil && s.record == nil {
		return spec, rules, &flow.Terminal{Reason: v1alpha1.ReasonEgressRuleRefused, Err: s.refused}
	}
	return spec, rules, nil
}

func (t *bundleStep) checkImage(image string) error {
	if desired.BundleImageAllowed(image, t.allowedImages) {
		return nil
	}
	return &flow.Terminal{Reason: v1alpha1.ReasonBundleImageNotAllowed,
		Err: fmt.Errorf("spec.bundle.image %s is not allowed on this node: choose another image, or ask an administrator to add it to the agent's --allowed-bundle-images", image)}
}

// ensureDown stops the container of a stopped Bottle. Its network stays.
func (t *bundleStep) ensureDown(ctx context.Context, s *scope) error {
	reasons := t.causes.Docker(ctx, "")
	b, err := t.bundles.InspectBundle(ctx, s.owner)
	if err == nil && b.Running {
		err = t.bundles.StopBundle(ctx, s.owner)
	}
	if err != nil && !errors.Is(err, host.ErrNotFound) && !errors.Is(err, host.ErrConflict) {
		return outcome.Map(err, reasons)
	}
	return t.broker.close(ctx, s)
}

func imageOrBuiltIn(image string) string {
	if image == "" {
		return "built into the agent"
	}
	return image
}

func join(ports []int32) string {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = fmt.Sprint(p)
	}
	return strings.Join(words, ", ")
}

// delete removes the container and checks that it is gone.
func (t *bundleStep) delete(ctx context.Context, s *scope) error {
	reasons := t.causes.Docker(ctx, "")
	t.denials.Stop(s.owner.UID)
	if err := t.bundles.DeleteBundle(ctx, s.owner); err != nil {
		return outcome.Map(err, reasons)
	}
	_, err := t.bundles.InspectBundle(ctx, s.owner)
	if err := outcome.RequireGone(err, reasons, "the bundle's container"); err != nil {
		return err
	}
	return t.broker.close(ctx, s)
}

// follow follows the built-in bundle's decisions from since on, and reports denials.
func (t *bundleStep) follow(s *scope, since time.Time) {
	uid := s.owner.UID
	if s.bottle.Spec.Bundle != nil && s.bottle.Spec.Bundle.Image != nil {
		t.denials.Stop(uid)
		s.status.Egress = nil // these came from another bundle
		s.reportLeak()
		return
	}
	if recent := t.denials.Recent(uid); recent != nil {
		s.status.Egress = &v1alpha1.EgressStatus{RecentDenials: recent, ClosedByPlatform: t.denials.Closed(uid), Credentials: t.broker.broker.Credentials(s.bottle)}
		s.reportLeak()
	}
	t.denials.Follow(s.owner, s.container, since, &s.bottle.Spec)
}
