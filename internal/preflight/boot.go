// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"fmt"

	"botbottle.dev/bottle-operator/internal/boottrial"
)

// Trial knows whether this node boots microVMs.
type Trial interface {
	State() (boottrial.State, string)
}

// OfTrial returns what is known about the boot of microVMs. err is why a trial that was
// just made has no verdict; nil if it has one, or if none was made.
func OfTrial(name string, t Trial, err error) Result {
	state, message := t.State()
	switch {
	case err != nil:
		return Result{name, Failure, fmt.Sprintf("no microVM could be tried (%v): fix that, and run the preflight with --boot again", err)}
	case state == boottrial.Failed:
		return Result{name, Failure, message}
	case state == boottrial.Untried:
		return Result{name, Warning, message + ": start the agent, which boots one, or run the preflight with --boot"}
	}
	return Result{name, OK, ""}
}
