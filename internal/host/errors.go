// SPDX-License-Identifier: Apache-2.0

package host

import "errors"

// Error kinds of every port. Adapters wrap them with what they were doing and
// to what; callers use errors.Is. Any other error means "could not find out".
var (
	// ErrNotFound: the thing is not there.
	ErrNotFound = errors.New("not found")
	// ErrConflict: a thing of our name is someone else's; the text names it.
	ErrConflict = errors.New("belongs to someone else")
	// ErrOverlap: the subnet is taken by another network of the node.
	ErrOverlap = errors.New("subnet overlaps another network")
	// ErrInvalid: it was refused as asked for, and will be again.
	ErrInvalid = errors.New("refused")
	// ErrUnsupported: this version of the tool cannot do it.
	ErrUnsupported = errors.New("not supported by this version")
	// ErrUnavailable: the tool or daemon does not answer or is not there.
	ErrUnavailable = errors.New("unavailable")
	// ErrBootFailed: the machine did not come up; the same start may work.
	ErrBootFailed = errors.New("machine did not boot")
	// ErrNotRunning: the machine is not running.
	ErrNotRunning = errors.New("machine is not running")
	// ErrNeverPull: the image is not on the node, and may not be pulled.
	ErrNeverPull = errors.New("image may not be pulled")
)
