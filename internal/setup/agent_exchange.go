// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"

	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/internal/exchange"
	"botbottle.dev/bottle-operator/internal/state"
)

// openExchanges returns the folders that the agent shares with guests, after it has
// removed those of Bottles that have no folder in the state directory. What it cannot
// remove does no harm and is logged.
func openExchanges(ctx context.Context, dir *state.Dir, guestProgram string) (*exchange.Exchanges, error) {
	exchanges := exchange.New(exchange.Options{InDir: dir.InDir(), ProgramDir: dir.GuestDir(), OutDir: dir.OutDir(), Program: guestProgram})
	owners, err := dir.Owners()
	if err != nil {
		return nil, err
	}
	var uids []string
	for _, o := range owners {
		uids = append(uids, o.UID)
	}
	if err := exchanges.Sweep(ctx, uids); err != nil {
		ctrl.Log.Error(err, "Could not remove folders that earlier Bottles left behind")
	}
	return exchanges, nil
}
