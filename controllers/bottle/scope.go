// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/subnet"
)

// scope is all that one pass over one Bottle knows. Steps fill it from the top
// down; none reads what a later one fills.
type scope struct {
	// bottle as read; adopt replaces it by the reply to its own write. Never
	// changed in place.
	bottle *v1alpha1.Bottle
	// owner and folder follow from the Bottle's identity.
	owner  host.Owner
	folder state.Folder
	// record of the machine as it was when the pass began; the steps that
	// change it replace it. Nil when no machine was created.
	record *state.Record

	// status is what the agent will say, but for conditions. It begins as what
	// it last said, so that a step that was not reached takes nothing back.
	status v1alpha1.BottleStatus
	// outcomes of the steps, in order. Filled by record.
	outcomes []agentstatus.StepOutcome
	// pending names the fields that wait for a new machine, pendingHow says
	// what applies them; pendingKnown once that was found out. Filled by the
	// machine step.
	pending      []string
	pendingHow   string
	pendingKnown bool

	// triple: network.
	triple subnet.Triple
	// version: smolfile.
	version host.SmolvmVersion
	// literals go into the Smolfile, secrets into files: smolfile.
	literals, secrets map[string]string
	// container of the bundle, by ID: bundle.
	container string
	// fromUser are the names that spec.env sets; the other variables are the
	// operator's own: smolfile.
	fromUser map[string]bool
	// wall as it stands: wall.
	wall host.Wall
	// leak keeps the machine stopped. Filled at once, and anew by wall, machine
	// and proof.
	leak *state.Leak
	// readyUnproven: the agent does not insist on a proof where none can be made.
	readyUnproven bool
	// lookAgain is when the next pass is due though this one is satisfied; 0 is
	// whenever passes come anyway. Filled by proof.
	lookAgain time.Duration
	// image is zero for a bare machine, reference what it was asked as. Without
	// imageFound it was not looked for, because there is a machine: image.
	image      host.Image
	reference  string
	imageFound bool
}

func (r *Reconciler) newScope(b *v1alpha1.Bottle) (*scope, error) {
	owner := r.ownerOf(b)
	folder, err := r.State.Folder(owner.UID)
	if err != nil {
		return nil, err
	}
	rec, err := folder.Record()
	if errors.Is(err, state.ErrBadRecord) && desired.Leaving(b) {
		rec, err = &state.Record{}, nil // identity is enough to leave
	}
	if err != nil {
		return nil, fmt.Errorf("bottle %s: %w", key(b), err)
	}
	s := &scope{bottle: b, owner: owner, folder: folder, record: rec, status: ownedStatus(b.Status)}
	s.readyUnproven = !r.RequireProof
	if !desired.Leaving(b) {
		findLeak(r.Enforcement, s)
	}
	return s, nil
}

func (r *Reconciler) ownerOf(b *v1alpha1.Bottle) host.Owner {
	return host.Owner{
		UID: string(b.UID), Namespace: b.Namespace, Name: b.Name,
		Slug: b.Spec.Slug, Cluster: r.Cluster, Node: r.Node,
	}
}

// recordOutcome keeps what became of a step.
func (s *scope) recordOutcome(step flow.Step[*scope], err error) {
	s.outcomes = append(s.outcomes, agentstatus.StepOutcome{Condition: step.Condition, Outcome: flow.OutcomeOf(err)})
}

// statusInput is what the conditions are computed from.
func (s *scope) statusInput() agentstatus.Input {
	in := agentstatus.Input{
		Bottle: s.bottle, Outcomes: s.outcomes, PendingKnown: s.pendingKnown,
		Version: s.version, ReadyUnproven: s.readyUnproven,
	}
	if s.leak != nil {
		in.Leak = leakMessage(s)
	}
	if s.record != nil {
		in.Proof = s.record.Proof
	}
	if len(s.pending) > 0 {
		in.Pending = pendingMessage(s.pending, s.pendingHow)
	}
	return in
}

func (s *scope) name() string { return s.owner.ID() }

func (s *scope) key() types.NamespacedName { return key(s.bottle) }

// setRecord writes the record and keeps it in the scope.
func (s *scope) setRecord(rec state.Record) error {
	if err := s.folder.WriteRecord(&rec); err != nil {
		return err
	}
	s.record = &rec
	return nil
}

// keepProof makes the record keep this proof, or none.
func (s *scope) keepProof(p *state.Proof) error {
	if s.record == nil || s.record.Proof == p || s.record.Proof != nil && p != nil && *s.record.Proof == *p {
		return nil
	}
	rec := *s.record
	rec.Proof = p
	return s.setRecord(rec)
}

func key(b *v1alpha1.Bottle) types.NamespacedName {
	return types.NamespacedName{Namespace: b.Namespace, Name: b.Name}
}
