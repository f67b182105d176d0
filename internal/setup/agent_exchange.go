// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"

	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/internal/exchange"
	"botbottle.dev/bottle-operator/internal/state"
)

// newExchanges returns the folders that the agent shares with guests.
func newExchanges(dir *state.Dir, guestProgram string) *exchange.Exchanges {
	return exchange.New(exchange.Options{InDir: dir.InDir(), ProgramDir: dir.GuestDir(), OutDir: dir.OutDir(), Program: guestProgram})
}

// sweepExchanges removes the folders of Bottles that have no folder in the state directory.
// What it cannot remove does no harm and is logged.
func sweepExchanges(ctx context.Context, dir *state.Dir, exchanges *exchange.Exchanges) error {
	uids, err := ownerUIDs(dir)
	if err != nil {
		return err
	}
	if err := exchanges.Sweep(ctx, uids); err != nil {
		ctrl.Log.Error(err, "Could not remove folders that earlier Bottles left behind")
	}
	return nil
}

// ownerUIDs returns the UIDs of the Bottles that have a folder in the state directory.
func ownerUIDs(dir *state.Dir) ([]string, error) {
	owners, err := dir.Owners()
	uids := make([]string, 0, len(owners))
	for _, o := range owners {
		uids = append(uids, o.UID)
	}
	return uids, err
}
