// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

const (
	// filesTimeout bounds how long a copy waits for the machine of a finished Bottle.
	filesTimeout = 5 * time.Minute
	filesPoll    = 500 * time.Millisecond
)

// annotator sets the annotations that make the node's agent act.
type annotator struct {
	client client.Client
	clock  clock.PassiveClock
}

// now returns the value of an annotation that requests something now. It differs
// between two requests.
func (a *annotator) now() string { return a.clock.Now().UTC().Format(time.RFC3339Nano) }

// set sets an annotation of exactly this Bottle: if another one has taken its name,
// the API server answers with a conflict. Its errors are for the user.
func (a *annotator) set(ctx context.Context, b *v1alpha1.Bottle, name, value string, more ...client.PatchOption) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": b.UID, "annotations": map[string]string{name: value},
	}})
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("annotate the Bottle: %w", err))
	}
	written := &v1alpha1.Bottle{}
	written.Namespace, written.Name = b.Namespace, b.Name
	err = a.client.Patch(ctx, written, client.RawPatch(types.MergePatchType, patch), append(more, client.FieldOwner(v1alpha1.ManagerFieldOwner))...)
	switch {
	case err == nil:
		return nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return conflict(b, "it was deleted or replaced meanwhile")
	case apierrors.ReasonForError(err) != "":
		return err // the API server's own words, such as those of a policy
	}
	return apierrors.NewInternalError(fmt.Errorf("annotate the Bottle: %w", err))
}

// files opens the machine of a finished Bottle for copies.
type files struct {
	find     *finder
	annotate *annotator
	timeout  time.Duration
}

// open waits until files can be copied from and to a finished Bottle. It starts the
// machine if it does not run.
func (f *files) open(ctx context.Context, b *v1alpha1.Bottle) error {
	if b.DeletionTimestamp != nil {
		return conflict(b, "it is being deleted")
	}
	if b.Spec.DesiredState == v1alpha1.DesiredStateStopped {
		return conflict(b, "its machine must not run, not even for copies, because spec.desiredState is Stopped. Set it to Running first: its workload has ended, and is not run again by that")
	}
	if missing(b) == "" {
		return nil
	}
	if err := f.annotate.set(ctx, b, v1alpha1.AnnotationFilesAt, f.annotate.now()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	last := b
	var failed error
	err := wait.PollUntilContextCancel(ctx, filesPoll, true, func(ctx context.Context) (bool, error) {
		now, err := f.find.bottle(ctx, b.Namespace, b.Name)
		switch {
		case ctx.Err() != nil:
			return false, nil
		case apierrors.IsNotFound(err) || err == nil && (now.UID != b.UID || now.DeletionTimestamp != nil):
			failed = conflict(b, "it was deleted meanwhile")
		case err != nil:
			return false, nil // the next attempt may succeed
		case !finished(now):
			failed = conflict(b, "it was started again meanwhile. Repeat the copy")
		default:
			last = now
			return missing(now) == "", nil
		}
		return false, failed
	})
	if err == nil {
		return nil
	}
	if failed != nil {
		return failed
	}
	return apierrors.NewTimeoutError(fmt.Sprintf("Bottle %s: its machine was not started for copying in time: %s",
		b.Name, conditionText(last, missing(last))), 10)
}

// missing returns the first condition that a finished Bottle still lacks for
// copies, or "".
func missing(b *v1alpha1.Bottle) string {
	for _, c := range []string{v1alpha1.ConditionFilesOpen, v1alpha1.ConditionMachineReady, v1alpha1.ConditionEgressEnforced} {
		if !meta.IsStatusConditionTrue(b.Status.Conditions, c) {
			return c
		}
	}
	return ""
}
