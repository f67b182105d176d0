// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"fmt"
)

// Error kinds of every port. Adapters wrap them with the action and the object
// concerned; callers use errors.Is. Any other error means "could not find out".
var (
	// ErrNotFound: the object does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict: an object with our name belongs to someone else. The text
	// names it.
	ErrConflict = errors.New("belongs to someone else")
	// ErrOverlap: the subnet is taken by another network of the node.
	ErrOverlap = errors.New("subnet overlaps another network")
	// ErrInvalid: the request was refused, and will be refused again.
	ErrInvalid = errors.New("refused")
	// ErrDiskTooSmall: what the machine is made from does not fit on a disk of the
	// size that was requested. It is an ErrInvalid too.
	ErrDiskTooSmall = fmt.Errorf("%w: a disk is too small", ErrInvalid)
	// ErrUnsupported: this version of the tool cannot do it.
	ErrUnsupported = errors.New("not supported by this version")
	// ErrUnavailable: the tool or daemon is missing or does not answer.
	ErrUnavailable = errors.New("unavailable")
	// ErrRestarting: the daemon has been silent for only a short time. What was reported
	// about its objects is still the best that is known. It is an ErrUnavailable too.
	ErrRestarting = fmt.Errorf("%w: it may be restarting", ErrUnavailable)
	// ErrStuck: the daemon neither removes an object of ours, nor lets us use or
	// replace it. The text names the object and says what somebody has to do.
	ErrStuck = errors.New("stuck")
	// ErrBootFailed: the machine did not boot; the same start may work later.
	ErrBootFailed = errors.New("machine did not boot")
	// ErrNotRunning: the machine is not running.
	ErrNotRunning = errors.New("machine is not running")
	// ErrNeverPull: the image is not on the node, and may not be pulled.
	ErrNeverPull = errors.New("image may not be pulled")
)
