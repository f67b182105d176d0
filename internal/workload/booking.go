// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/state"
)

// Booking says whether the machine of a Bottle that has finished once may run: what was
// booked for it was released then.
type Booking string

// Bookings.
const (
	// Booked: the machine may run.
	Booked Booking = ""
	// Unbooked: nothing is booked, so the machine must be down.
	Unbooked Booking = "nothing is booked"
	// Unreported: the API server still says that the Bottle has finished, so that the
	// manager may release the booking at any time.
	Unreported Booking = "finished, according to the API server"
	// TooSmall: the machine needs more than was booked.
	TooSmall Booking = "the booking is too small"
)

// BookingOf returns what is booked for a Bottle as the API server has it.
func BookingOf(b *v1alpha1.Bottle, rec *state.Record) Booking {
	r := b.Status.Resources
	is := func(typ string) bool { return meta.IsStatusConditionTrue(b.Status.Conditions, typ) }
	switch {
	case rec == nil || !rec.Workload.Released:
		return Booked
	case r == nil:
		return Unbooked
	case is(v1alpha1.ConditionFinished) && !is(v1alpha1.ConditionFilesOpen):
		return Unreported
	case !created(rec).Fits(r) && !Recreated(b, rec):
		return TooSmall
	}
	return Booked
}

// Recreated reports whether the user requested a new machine, which was not made yet.
func Recreated(b *v1alpha1.Bottle, rec *state.Record) bool {
	at := b.Annotations[v1alpha1.AnnotationRecreatedAt]
	return at != "" && rec != nil && at != rec.RecreatedAt
}

// created returns the size of the machine. Records of earlier releases have only what
// was requested.
func created(rec *state.Record) machinesize.Size {
	if rec.Created == (machinesize.Size{}) {
		return rec.Size
	}
	return rec.Created
}

// TooLarge returns how a Bottle ends that was to run again with a machine that needs more
// than was booked, and its record, in which that request was acted on.
func TooLarge(b *v1alpha1.Bottle, rec *state.Record) (*state.Record, state.End) {
	out := *rec
	out.RestartedAt = b.Annotations[v1alpha1.AnnotationRestartedAt]
	return &out, state.End{Reason: v1alpha1.ReasonFailed, Message: fmt.Sprintf("it did not run again: spec.machine asks for less than its machine was created with (%s); "+
		"change it back, or annotate the Bottle with botbottle.dev/recreatedAt for a new machine (its disk is lost)", strings.Join(created(rec).Flags(), " "))}
}

// Anew reports whether a Bottle that had finished is to run again and its machine was
// not started yet.
func Anew(rec *state.Record) bool {
	return rec != nil && rec.Workload.Released && rec.Workload.Start == "" && rec.Workload.Finished == nil
}
