// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/pending"
	"botbottle.dev/bottle-operator/internal/state"
	"botbottle.dev/bottle-operator/internal/subnet"
	"botbottle.dev/bottle-operator/internal/workload"
)

// How long to wait for changes that cause no event.
const (
	soon          = 2 * time.Second
	nodeDelay     = 10 * time.Second
	externalDelay = 30 * time.Second // someone else's object, a missing file
	immediately   = time.Millisecond
)

// scope is everything that one pass over one Bottle knows. No step reads a field
// that a later one fills. The comments name the step that fills a field.
type scope struct {
	// bottle is the Bottle as read. The adopt step replaces it with the reply
	// to its own write. It is never changed in place.
	bottle *v1alpha1.Bottle
	// owner and folder follow from the Bottle's identity.
	owner  host.Owner
	folder state.Folder
	// record describes the machine, as of the start of the pass. The steps
	// that change it replace it. It is nil if no machine was created.
	record *state.Record

	// status is what the agent will write, without conditions. It starts as what
	// the agent last wrote: a step that is not reached leaves its part unchanged.
	status v1alpha1.BottleStatus
	// refused names the egress rules that the platform refuses; nil for none.
	refused error
	// outcomes of the steps, in order. Filled by recordOutcome.
	outcomes []agentstatus.StepOutcome
	// pending names the fields that wait for a new machine, and pendingHow
	// says what applies them. pendingKnown is set once the fields were
	// compared. Filled by machine.
	pending      []string
	pendingHow   string
	pendingKnown bool

	// runtime runs the bundle. Filled at the start, or else by network.
	runtime bundleruntime.Kind
	// podOutdated: the Bottle's Pod was made for an earlier spec.bundle. Filled by broker.
	podOutdated bool
	// ports and bundleImage are those of the bundle that is to run now. Filled by broker.
	ports       []int32
	bundleImage string
	// triple holds the Bottle's addresses. Filled by network.
	triple subnet.Triple
	hidden string // the reserved networks that the subnet hides; "" for none. Filled by network.
	// version is the node's smolvm. Filled by smolfile.
	version host.SmolvmVersion
	// literals go into the Smolfile, secrets into files. opened are more literals, for a
	// guest whose bundle opens connections. Filled by smolfile.
	literals, secrets, opened map[string]string
	// secretsDir is mounted into the built-in bundle. Filled by broker.
	secretsDir string
	// container is the ID of the bundle's container. Filled by bundle.
	container string
	// fromUser names the variables of spec.env, not the operator's. Filled by smolfile.
	fromUser map[string]bool
	// wall is the wall as it is now. Filled by wall.
	wall host.Wall
	// leak, if not nil, keeps the machine stopped. Filled at the start and by proof.
	leak *state.Leak
	// readyUnproven: the agent does not require a proof where none can be made.
	readyUnproven bool
	// requeueAfter is the time until the next pass is due even if this one is
	// satisfied; 0 changes nothing. Filled by proof.
	requeueAfter time.Duration
	// image is what a new machine is created from, and reference is its requested
	// name; both are zero for a bare machine. imageFound is false if there was no
	// need to look it up, because a machine exists. imageErr is how the look-up
	// ended. Filled by ahead.
	image      host.Image
	reference  string
	imageFound bool
	imageErr   error
	// work is what is known about the workload, and phase what the pass is to do about
	// the Bottle. Filled before the first step.
	work  workload.Facts
	phase workload.Phase
	// command, exchange and trustDir are for a new machine. Filled by prepare.
	command  []string
	exchange host.Exchange
	trustDir string
	// created waits until the machine that is created beside the pass exists, and
	// returns how that ended. Filled by ahead.
	created func() error
}

func (r *Reconciler) newScope(b *v1alpha1.Bottle) (*scope, error) {
	owner := r.ownerOf(b)
	folder, err := r.State.Folder(owner.UID)
	if err != nil {
		return nil, err
	}
	rec, err := folder.Record()
	if errors.Is(err, state.ErrBadRecord) && desired.Leaving(b) {
		rec, err = &state.Record{}, nil // a teardown needs only the identity
	}
	if err != nil {
		return nil, fmt.Errorf("bottle %s: %w", key(b), err)
	}
	s := &scope{bottle: b, owner: owner, folder: folder, record: rec, status: agentstatus.OwnedFields(b.Status), created: func() error { return nil }}
	s.readyUnproven = !r.RequireProof
	if s.runtime, err = r.Runtimes.OfBottle(b); err != nil {
		return nil, err
	}
	if !desired.Leaving(b) {
		findLeak(r.Enforcement, s)
		s.refused = desired.RefusedRules(b, r.Enforcement.Limits())
	}
	return s, nil
}

func (r *Reconciler) ownerOf(b *v1alpha1.Bottle) host.Owner {
	return host.Owner{
		UID: string(b.UID), Namespace: b.Namespace, Name: b.Name,
		Slug: b.Spec.Slug, Cluster: r.Cluster, Node: r.Node,
	}
}

// recordOutcome records the outcome of a step.
func (s *scope) recordOutcome(step flow.Step[*scope], err error) {
	s.outcomes = append(s.outcomes, agentstatus.StepOutcome{Condition: step.Condition, Outcome: flow.OutcomeOf(err)})
}

// statusInput returns what the conditions are computed from.
func (s *scope) statusInput() agentstatus.Input {
	in := agentstatus.Input{
		Bottle: s.bottle, Outcomes: s.outcomes, PendingKnown: s.pendingKnown,
		Version: s.version, ReadyUnproven: s.readyUnproven, Hidden: s.hidden,
	}
	if s.leak != nil {
		in.Leak = leakMessage(s)
	}
	if s.refused != nil && s.record != nil {
		in.Refused = s.refused.Error()
	}
	if s.record != nil {
		in.Proof = s.record.Proof
	}
	if s.status.Egress != nil {
		in.Credentials = s.status.Egress.Credentials
	}
	s.workloadInput(&in)
	if len(s.pending) > 0 {
		in.Pending = pending.Message(s.pending, s.pendingHow)
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

// keepProof stores p, which may be nil, in the record.
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
