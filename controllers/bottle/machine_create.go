// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"maps"
	"slices"
	"sync"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/guestca"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/lifecycle"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/pending"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/supervise"
)

// create creates the machine. It writes the record first: if smolvm's reply is
// lost, the record says what the machine was created from. If no machine was
// created, the next attempt replaces the record.
func (m *machineStep) create(ctx context.Context, s *scope) error {
	if !s.imageFound { // the machine disappeared after the image step had seen it
		return &flow.Waiting{Reason: v1alpha1.ReasonMachineStarting, Message: "a new machine will be created", After: immediately}
	}
	if err := m.workload.prepare(ctx, s); err != nil {
		return err
	}
	if err := s.setRecord(newRecord(s)); err != nil {
		return err
	}
	defer m.view.Invalidate(s.name())
	return m.machines.CreateMachine(ctx, machineSpec(s))
}

// createAhead starts to create the machine of a new Bottle. The creation needs neither
// the bundle nor the wall, so it runs while these are made, and the machine step waits
// for it. Whatever prevents the creation now is left to the machine step.
func (m *machineStep) createAhead(ctx context.Context, s *scope) error {
	// The bundle step writes the certificate that caPath names.
	if !s.imageFound || s.record != nil || desired.CAPath(s.bottle) != "" || m.causes.MachineProblem(ctx) != nil {
		return nil
	}
	if _, present, err := m.listed(ctx, s); present || err != nil {
		return nil
	}
	if m.workload.prepare(ctx, s) != nil {
		return nil
	}
	if err := s.setRecord(newRecord(s)); err != nil {
		return err
	}
	name, spec, created := s.name(), machineSpec(s), make(chan error, 1)
	s.created = sync.OnceValue(func() error { return <-created })
	go func() {
		err := m.machines.CreateMachine(ctx, spec)
		m.view.Invalidate(name)
		if err == nil {
			_, _, _ = m.view.Get(ctx, name) // so that no step waits for the list
		}
		created <- err
	}()
	return nil
}

// newRecord returns the record of a machine that is created now.
func newRecord(s *scope) state.Record {
	salt := state.NewSalt()
	rec := state.Record{
		Salt:      salt,
		Env:       state.Hashes(salt, s.literals),
		Secrets:   state.Hashes(salt, s.secrets),
		Image:     ptr.Deref(s.bottle.Spec.Image, ""),
		Artifact:  pending.Artifact(s.bottle),
		Reference: s.reference,
		Digest:    s.image.Digest,
		Command:   s.bottle.Spec.Command,
		Size:      machinesize.Of(s.bottle.Spec.Machine),
		Created:   machineSpec(s).Size,
		BundleIP:  s.triple.BundleIP.String(),
		CAPath:    desired.CAPath(s.bottle),
		Trusts:    s.opened != nil, Placeholders: desired.Placeholders(s.bottle),
		RestartedAt: s.bottle.Annotations[v1alpha1.AnnotationRestartedAt],
		RecreatedAt: s.bottle.Annotations[v1alpha1.AnnotationRecreatedAt],
	}
	if old := s.record; old != nil {
		rec.FirstRun, rec.Restarts, rec.LastLoss = old.FirstRun, old.Restarts, old.LastLoss
		if rec.RecreatedAt == old.RecreatedAt { // the user did not request a new attempt
			rec.BootFailures, rec.LastBootFailure = old.BootFailures, old.LastBootFailure
			rec.BootError, rec.BootReason = old.BootError, old.BootReason
		}
		rec.Workload = old.Workload
	}
	rec.Workload.Out, rec.Workload.Checked = s.exchange.Out, true
	return rec
}

// machineSpec returns the machine to create. CPUs and memory are those that the
// placeholder Pod reserved, and the disks are not larger.
func machineSpec(s *scope) host.MachineSpec {
	spec := host.MachineSpec{
		Owner:    s.owner,
		Size:     machinesize.Of(s.bottle.Spec.Machine).Within(s.bottle.Status.Resources),
		Image:    s.image.Path,
		Smolfile: s.folder.SmolfilePath(),
		Command:  s.command,
	}
	if s.exchange.Out != "" {
		spec.Mounts = []host.Mount{{Source: s.exchange.In, Target: supervise.In}, {Source: s.exchange.Out, Target: supervise.Out, Writable: true}}
	}
	if reserved := s.bottle.Status.Resources; reserved != nil {
		spec.CPUs, spec.MemoryMiB = reserved.CPUs, machinesize.MiB(reserved.Memory.Value())
	}
	if s.bottle.Spec.Artifact != nil {
		fromArtifact(&spec, s)
	}
	if desired.CAPath(s.bottle) != "" {
		spec.Mounts = append(spec.Mounts, host.Mount{Source: s.folder.CADir(), Target: guestca.Dir})
	}
	if s.trustDir != "" {
		spec.Mounts = append(spec.Mounts, host.Mount{Source: s.trustDir, Target: trustTarget})
	}
	for _, name := range slices.Sorted(maps.Keys(s.secrets)) {
		spec.Secrets = append(spec.Secrets, host.SecretFile{Name: name, Path: s.folder.SecretPath(name)})
	}
	return spec
}

// ours reports whether the machine with our name belongs to the Bottle. If
// smolvm does not support labels, the existence of a record decides.
func ours(m host.Machine, s *scope) bool {
	if m.UID == "" {
		return s.record != nil
	}
	return m.UID == s.owner.UID
}

func restartRequested(s *scope) bool {
	at := s.bottle.Annotations[v1alpha1.AnnotationRestartedAt]
	return at != "" && s.record != nil && at != s.record.RestartedAt
}

// comparePending finds the fields that have changed since the machine was created.
func (s *scope) comparePending(f lifecycle.Facts) {
	s.pendingKnown = true
	if s.record == nil || !f.Present || !f.Ours {
		return
	}
	s.pending, s.pendingHow = pending.Fields(s.record, pending.Wanted{
		Bottle: s.bottle, Literals: s.literals, Secrets: s.secrets, FromUser: s.fromUser, BundleIP: s.triple.BundleIP, BundleDiffers: s.podOutdated,
	})
}
