// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/util/exec"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// deadlineCode is the exit code of run if the command took too long, as that of
// timeout(1).
const deadlineCode = 124

// signals are the numbers of the guest's signals. A guest is Linux, whatever this
// program runs on.
var signals = strings.Fields(`SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2
	SIGPIPE SIGALRM SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM
	SIGPROF SIGWINCH SIGIO SIGPWR SIGSYS`)

// signalNumber returns the number of a signal from its name, or from its number as text;
// 0 if there is no such signal.
func signalNumber(name string) int {
	for i, s := range signals {
		if s == name {
			return i + 1
		}
	}
	n, err := strconv.Atoi(strings.TrimPrefix(name, "SIG"))
	if err != nil || n < 1 || n > 64 {
		return 0
	}
	return n
}

// result returns how a finished Bottle ended: nil for success, otherwise an error with
// the exit code.
func result(b *v1alpha1.Bottle) error {
	finished := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionFinished)
	switch {
	case finished == nil:
		return errors.New("the Bottle has not finished")
	case finished.Reason == v1alpha1.ReasonCompleted:
		return nil
	case finished.Reason == v1alpha1.ReasonDeadlineExceeded:
		return exec.CodeExitError{Err: fmt.Errorf("the command took too long: %s", clean(finished.Message)), Code: deadlineCode}
	}
	load := b.Status.Workload
	if load != nil && load.Signal != nil {
		if n := signalNumber(*load.Signal); n != 0 {
			return exec.CodeExitError{Err: fmt.Errorf("command terminated by %s", clean(*load.Signal)), Code: 128 + n}
		}
	}
	if load != nil && load.ExitCode != nil && *load.ExitCode != 0 {
		return exec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", *load.ExitCode), Code: int(*load.ExitCode)}
	}
	return fmt.Errorf("the Bottle has failed: %s", clean(finished.Message))
}

// exitCode reports whether an error is the exit code of a command.
func exitCode(err error) bool {
	var exit exec.CodeExitError
	return errors.As(err, &exit)
}
