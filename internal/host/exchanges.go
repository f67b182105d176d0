// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"

	"botbottle.dev/bottle-operator/internal/supervise"
)

// Exchange is the pair of folders through which the agent and the supervisor in a guest
// tell each other about the workload. Both are mounted into the guest: In at
// supervise.In, read-only, and Out at supervise.Out.
type Exchange struct {
	In, Out string // absolute
}

// ReportMark changes whenever a report may have changed. It is zero if there is none.
type ReportMark struct {
	Inode, Size, Changed int64
}

// Exchanges manages the exchanges of this node's Bottles. All methods refuse a UID or
// an Out that no Bottle can have, with ErrInvalid.
type Exchanges interface {
	// EnsureExchange creates both folders, puts the guest program into In, and leaves
	// everything else as it is. out is the Out that the Bottle's machine was created
	// with; "" replaces every earlier one by a new one, under a name that nobody can guess.
	EnsureExchange(ctx context.Context, uid, out string) (Exchange, error)
	// RenewExchange prepares the folders for a start of the machine: In gets these
	// orders and the current guest program, and Out
	// has only an empty report file, which the guest may write to. It also works after a
	// reboot, which removes Out. The machine must be down.
	RenewExchange(ctx context.Context, uid, out string, orders supervise.Orders) error
	// WriteOrders replaces the orders of a running supervisor. It does nothing if they
	// are the same.
	WriteOrders(ctx context.Context, uid string, orders supervise.Orders) error
	// ReadReport returns the report in out. It returns ErrNotFound when there is none,
	// and ErrInvalid when what is there is no report. The guest can write anything:
	// reading never waits, and its duration and size are bounded. A report that is being
	// written is ErrInvalid, too: another try may succeed.
	ReadReport(ctx context.Context, out string) (supervise.Report, error)
	// Mark returns the mark of the report in out. It takes one system call.
	Mark(out string) ReportMark
	// WriteTrust replaces what the guest trusts: a PEM file of certificates, and a store
	// for JVMs that is made from it. It returns the folder of In with them, which a
	// machine without a supervisor gets instead of In. A running guest sees the change.
	// WriteTrust does nothing if the PEM file is the same. With nil, it changes no file;
	// the folder exists afterwards.
	WriteTrust(ctx context.Context, uid string, pem []byte) (string, error)
	// RemoveExchange removes both folders. It returns nil when there are none. The
	// machine must be down.
	RemoveExchange(ctx context.Context, uid string) error
}
