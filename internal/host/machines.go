// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"io"
	"net/netip"
	"time"
)

// MachineState is smolvm's word for a machine's state.
type MachineState string

// States of a machine. Any other word of smolvm is MachineUnknown.
const (
	MachineCreated     MachineState = "created"
	MachineRunning     MachineState = "running"
	MachineStopped     MachineState = "stopped"
	MachineFailed      MachineState = "failed"
	MachineUnreachable MachineState = "unreachable"
	MachineFrozen      MachineState = "frozen"
	MachineUnknown     MachineState = "unknown"
)

// SecretFile is a value that smolvm reads from a file at each start.
type SecretFile struct {
	Name string
	Path string // absolute
}

// Mount shows a folder of the node in the guest, read-only. Both paths are
// absolute and without a colon.
type Mount struct {
	Source, Target string
}

// MachineSpec is what a machine is created with. Zero sizes are not given to
// smolvm.
type MachineSpec struct {
	Owner      Owner
	CPUs       int32
	MemoryMiB  int64
	StorageGiB int64
	OverlayGiB int64
	// Image is the absolute path of an image archive; empty for a bare
	// machine.
	Image string
	// Artifact is the absolute path of a .smolmachine to make the machine of,
	// in place of Image and Smolfile, which cannot be given beside it. It stays
	// where it is as long as the machine does. Whoever names it has checked it:
	// smolvm believes what it says. ErrUnsupported before 1.7.7.
	Artifact string
	// Smolfile is the absolute path of the Smolfile; empty with an Artifact.
	Smolfile string
	// Env and AllowCIDR are, with an Artifact, what a Smolfile says otherwise,
	// and are given with nothing else. Env are "K=V" literals, never a secret's
	// value, for they are in smolvm's command line; they come after the
	// artifact's own, so that they win. AllowCIDR, the only addresses that the
	// guest may reach, cannot be left out: an artifact may ask for the whole
	// network. See SmolvmVersion.ArtifactPolicy for who holds it.
	Env       []string
	AllowCIDR netip.Prefix
	// Secrets beside an Artifact are ErrUnsupported: every release that was
	// measured (1.7.7 to 1.32.2) drops them then, and says nothing.
	Secrets []SecretFile
	// Mounts are folders of the node that the guest reads.
	Mounts []Mount
	// Command replaces the image's own; nil keeps it.
	Command []string
}

// Machine is a machine as observed. A PID is set only while State is running,
// and the process has the start time that smolvm recorded and is in the
// machine's cgroup.
type Machine struct {
	Name string
	// UID is the owner's, from smolvm's labels; empty where the version knows
	// none.
	UID       string
	State     MachineState
	PID       int
	StartTime time.Time
	CPUs      int32
	MemoryMiB int64
	// Image is what it was made from, local:SHA256 for an archive, whatever an
	// artifact says of itself; empty for a bare machine.
	Image string
	// AllowedCIDRs is the persisted policy, where this version shows it
	// (SmolvmVersion.PolicyInList).
	AllowedCIDRs []string
	// LastExit says in words how the VMM ended, where the version tells.
	LastExit string
}

// VMM is a process of a machine: one in its cgroup. Most machines have one;
// while a machine starts, smolvm itself is one too.
type VMM struct {
	Name      string // the machine's
	PID       int
	StartTime time.Time
	// NetNS is the network namespace that it is in, and so where every
	// connection of its guest begins.
	NetNS NetNS
}

// Policy is what smolvm persisted of a machine's egress policy.
type Policy struct {
	// AllowedCIDRs is the list as it was understood; nil is no list, which
	// allows everything or nothing.
	AllowedCIDRs []string
	// Extra names, sorted, whatever else was persisted that widens or changes
	// the policy. Empty: the list is all there is.
	Extra []string
}

// Denial is a connection of a guest's that smolvm itself refused. Its
// destination is the guest's choice.
type Denial struct {
	Time time.Time // zero where smolvm did not tell
	Dest netip.AddrPort
}

// MaxDenials bounds what Denials returns.
const MaxDenials = 1000

// SmolvmVersion is the node's smolvm and what it can do.
type SmolvmVersion struct {
	Version string // "1.32.2"
	// LocalImages: image archives can be given (1.1.3).
	LocalImages bool
	// SecretFiles: values can be given by reference (1.4.0).
	SecretFiles bool
	// Labels: machines bear labels (1.8.0).
	Labels bool
	// Command: a trailing command can be given at create.
	Command bool
	// PolicyInList: ls shows the persisted policy (1.29.0).
	PolicyInList bool
	// EgressEvents: denials can be listed (1.8.1).
	EgressEvents bool
	// Artifacts: machines can be made of artifacts (1.7.7). Older releases can
	// too, but keep what they unpack by a checksum that whoever made the
	// artifact chooses, and so may hand one Bottle what another brought.
	Artifacts bool
	// ArtifactPolicy: a machine made of an artifact keeps its policy (1.8.0).
	// Older releases drop it without a word, so that Policy shows no list and
	// the wall alone holds such a machine.
	ArtifactPolicy bool
	// OwnUser: each VMM runs as a user of its own (1.2.5). Older releases run it
	// as root.
	OwnUser bool
	// Backend is the network of a machine that has a policy: "virtio-net", or
	// "tsi" (before 1.1.3), which may not enforce it.
	Backend string
	// Newer: newer than the newest release that was measured.
	Newer bool
	// Older: older than the oldest release whose command line is spoken.
	Older bool
}

// ExecRequest is a command to run in a guest. The environment is the machine's
// own. Output beyond the writers' wishes is the writers' concern.
type ExecRequest struct {
	Command []string
	Stdin   io.Reader // nil for none
	Stdout  io.Writer
	Stderr  io.Writer
	Timeout time.Duration // 0 means no limit but the context's; its end is exit code 124
}

// Machines are the smolvm machines of this node. Calls that write are
// serialised inside; starts are not capped, which is for whoever starts
// machines. A name that no Bottle can have is refused by all that act,
// ErrInvalid. ErrUnavailable means that smolvm
// itself is missing or does not answer; ErrUnsupported that its version cannot
// do what was asked.
type Machines interface {
	// Version returns the version of the node's smolvm and its capabilities.
	Version(ctx context.Context) (SmolvmVersion, error)
	// ListMachines returns every machine of smolvm's, ours and others', by one
	// call of smolvm, which is made anew each time: smolvm takes seconds for
	// each machine that does not answer.
	ListMachines(ctx context.Context) ([]Machine, error)
	// CreateMachine makes the machine without starting it. A machine of that
	// name is ErrConflict; ErrInvalid when smolvm refuses what was asked.
	CreateMachine(ctx context.Context, spec MachineSpec) error
	// StartMachine starts a created or stopped machine and waits until it
	// answers; a running one is nil. ErrNotFound, ErrBootFailed. An unreachable
	// one is refused with ErrUnavailable, for a start would kill it: stop it
	// first, after more than one reading. After a failed or killed start no
	// VMM is left.
	//
	// smolvm, and so the VMM with every connection of its guest, is started in
	// the machine's cgroup and in the network namespace of the file netns; "" is
	// the caller's own. A file that is none is ErrUnavailable, and nothing was
	// started.
	StartMachine(ctx context.Context, name, netns string) error
	// StopMachine stops a machine; stopped or absent is nil. When it returns
	// nil no VMM is left.
	StopMachine(ctx context.Context, name string) error
	// DeleteMachine stops and deletes a machine and checks that no record,
	// process, cgroup or folder is left; absent is nil. An earlier call that broke off
	// may have left a process or a folder of a machine that is no longer
	// listed: this call removes them too.
	DeleteMachine(ctx context.Context, name string) error
	// Exec runs a command in a running guest and returns its exit code; one that
	// the guest does not have is a code from 126 up.
	// ErrNotRunning, ErrNotFound; any other error is smolvm's, not the
	// command's.
	Exec(ctx context.Context, name string, req ExecRequest) (int, error)
	// Copy copies one file from the node into a running guest, mode 0755.
	Copy(ctx context.Context, name, from, to string) error
	// WatchExit calls exited with the machine's name in the instant in which
	// the VMM with this PID and start time ends. It returns at once; the watch
	// ends with ctx.
	WatchExit(ctx context.Context, m Machine, exited func(name string)) error

	// VMMs returns every living process of these machines, identified by their
	// cgroups, whatever the processes' command lines say. It asks the kernel
	// alone: neither smolvm nor a lock can hold it up, and it is cheap enough to
	// be called every second for hundreds of machines. A VMM that was not started
	// by this agent is adopted: it is moved into its machine's cgroup, if it
	// proves to be that machine's. An error means that nothing could be found
	// out.
	VMMs(ctx context.Context, names []string) ([]VMM, error)
	// KillMachine ends every process of a machine by SIGKILL, at once and without
	// asking smolvm, whatever else is being done to the machine, a start too;
	// absent is nil. It returns nil only once the kernel reports that the
	// machine's cgroup is empty: none of those that were there lives.
	KillMachine(ctx context.Context, name string) error
	// Policy returns what smolvm persisted. ErrNotFound; ErrUnsupported where
	// it cannot be read.
	Policy(ctx context.Context, name string) (Policy, error)
	// Denials returns what smolvm itself refused the machine, in smolvm's
	// order, at most MaxDenials, the newest where there are more. A machine
	// without any, or unknown, has none. ErrUnsupported (before 1.8.1).
	Denials(ctx context.Context, name string) ([]Denial, error)
}
