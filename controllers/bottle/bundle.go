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
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/bundlespec"
	"botbottle.dev/bottle-operator/internal/denials"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/guestca"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/outcome"
)

// bundleStep runs the sidecar container, with its rules and certificates.
type bundleStep struct {
	renderer    bundlespec.Renderer
	bundles     host.Bundles
	enforcement enforce.Enforcement
	denials     *denials.Follower
	broker      *brokerStep
	causes      outcome.Causes
	clock       clock.Clock
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
	reasons := t.causes.Bundle(ctx, s.runtime, s.owner, v1alpha1.ReasonBundleConflict)
	reasons.Invalid = v1alpha1.ReasonBundleRejected
	b, err := t.bundles.EnsureBundle(ctx, spec)
	if errors.Is(err, host.ErrNotFound) && s.runtime != bundleruntime.Pod {
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
	s.status.Bundle = &v1alpha1.BundleStatus{Name: s.name(), ContainerID: ptr.To(b.ContainerID), Image: ptr.To(b.Image), Runtime: ptr.To(s.runtime.Reported())}
	if b.ContainerID == "" {
		s.status.Bundle.ContainerID = nil
	}
	if b.OutOfMemory {
		return &flow.Waiting{Reason: v1alpha1.ReasonBundleOutOfMemory, After: soon, Message: s.runtime.OutOfMemory(spec.Limits.MemoryBytes)}
	}
	if !b.Running {
		return &flow.Waiting{Reason: v1alpha1.ReasonBundleStarting, After: soon,
			Message: fmt.Sprintf("the bundle's container is %s: see %s", b.State, s.runtime.Describe(s.owner))}
	}
	s.container = b.ContainerID
	fresh := t.clock.Since(b.StartedAt) < startingTime
	patience := time.Duration(0)
	if fresh {
		patience = bundleports.Patience
	}
	silent, err := bundleports.Silent(ctx, t.bundles, bundleports.At{Owner: s.owner, IP: s.triple.BundleIP, Ports: s.ports}, patience)
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
		Message: fmt.Sprintf("the bundle does not answer on TCP port %s: see %s, and spec.bundle.ports", join(silent), s.runtime.Logs(s.owner))}
}

// startingTime is how long a container may take to answer after its start.
const startingTime = 5 * time.Second

// spec returns the bundle to run, and the rules of the built-in one.
func (t *bundleStep) spec(ctx context.Context, s *scope) (host.BundleSpec, egress.Set, error) {
	at := bundlespec.Place{Owner: s.owner, IP: s.triple.BundleIP, RulesDir: s.folder.BundleDir(), SecretsDir: s.secretsDir}
	if s.record == nil {
		at.Refused = s.refused
	}
	return t.renderer.Of(ctx, s.bottle, at)
}

// ensureDown stops the container of a stopped Bottle. Its network stays. A Pod keeps
// running, because it holds the Bottle's resources: its bundle loses its rules.
func (t *bundleStep) ensureDown(ctx context.Context, s *scope) error {
	reasons := t.causes.Bundle(ctx, s.runtime, s.owner, "")
	if s.runtime == bundleruntime.Pod {
		reasons.NotFound = ""
		// The bundle runs on, and does not wait for the container runtime.
		if err := errors.Join(t.enforcement.OpenRules(s.owner, s.bottle.Generation, egress.Set{}), t.broker.close(ctx, s)); err != nil {
			return err
		}
	}
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
	reasons := t.causes.Bundle(ctx, s.runtime, s.owner, "")
	t.denials.Stop(s.owner.UID)
	if s.runtime == bundleruntime.Pod { // no check that it is gone: the kubelet may start the container again
		return errors.Join(t.broker.close(ctx, s), outcome.Map(t.bundles.DeleteBundle(ctx, s.owner), reasons))
	}
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
