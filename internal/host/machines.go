// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"io"
	"net/netip"
	"time"

	"botbottle.dev/bottle-operator/internal/machinesize"
)

// MachineState is smolvm's name for a machine's state.
type MachineState string

// States of a machine. Any other state of smolvm is MachineUnknown.
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

// Mount shows a folder of the node in the guest. Both paths are absolute and without
// a colon.
type Mount struct {
	Source, Target string
	// Writable: the guest may write to the folder. Nothing in it is trusted then.
	Writable bool
}

// MachineSpec describes a machine to create.
type MachineSpec struct {
	Owner Owner
	// Size is passed to smolvm except for its zeros.
	machinesize.Size
	// Image is the absolute path of an image archive; empty for a bare
	// machine.
	Image string
	// Artifact is the absolute path of a .smolmachine to make the machine from.
	// It replaces Image and Smolfile, which must be empty then. The file must
	// stay in place as long as the machine exists. The caller must have checked
	// it: smolvm trusts its content. ErrUnsupported before 1.7.7.
	Artifact string
	// Smolfile is the absolute path of the Smolfile; empty with an Artifact.
	Smolfile string
	// Env and AllowCIDR are set only with an Artifact; without one, the Smolfile
	// has them. Env are "K=V" literals. They must not contain a secret, because
	// they are in smolvm's command line. They come after the artifact's own and
	// so override them. AllowCIDR is the only range of addresses that the guest
	// may reach. It is required, because an artifact may ask for the whole
	// network. See SmolvmVersion.ArtifactPolicy for what enforces it.
	Env       []string
	AllowCIDR netip.Prefix
	// Secrets with an Artifact are ErrUnsupported: every release that was
	// measured (1.7.7 to 1.32.2) silently drops them then.
	Secrets []SecretFile
	// Mounts are folders of the node that the guest sees.
	Mounts []Mount
	// Command replaces the image's own command; nil keeps it.
	Command []string
}

// Machine is a machine as observed. PID is set only while State is running, the
// process has the start time that smolvm recorded, and the process is in the
// machine's cgroup.
type Machine struct {
	Name string
	// UID is the owner's UID from smolvm's labels; empty if this version of
	// smolvm has no labels.
	UID       string
	State     MachineState
	PID       int
	StartTime time.Time
	CPUs      int32
	MemoryMiB int64
	// Image is what it was made from: local:SHA256 for an archive, or whatever
	// an artifact's metadata says; empty for a bare machine.
	Image string
	// AllowedCIDRs is the persisted policy, if this version shows it
	// (SmolvmVersion.PolicyInList).
	AllowedCIDRs []string
	// LastExit says in words how the VMM ended, if this version reports it.
	LastExit string
}

// VMM is a process in a machine's cgroup. Most machines have one; while a
// machine starts, smolvm itself is another.
type VMM struct {
	Name      string // the machine's name
	PID       int
	StartTime time.Time
	// NetNS is the network namespace of the process. Every connection of its
	// guest starts there.
	NetNS NetNS
}

// Policy is a machine's egress policy as smolvm persisted it.
type Policy struct {
	// AllowedCIDRs is the list as smolvm understood it. nil means that there is
	// no list, which allows everything or nothing.
	AllowedCIDRs []string
	// Extra names, in sorted order, everything else in the persisted policy that
	// widens or changes it. If it is empty, the list is the whole policy.
	Extra []string
}

// Denial is a guest's connection that smolvm itself refused. The guest chooses
// the destination.
type Denial struct {
	Time time.Time // zero if smolvm did not report it
	Dest netip.AddrPort
}

// MaxDenials is the largest number of entries that Denials returns.
const MaxDenials = 1000

// SmolvmVersion is the version and the capabilities of the node's smolvm. A
// number in parentheses is the first release with the capability.
type SmolvmVersion struct {
	Version string // "1.32.2"
	// LocalImages: smolvm accepts image archives (1.1.3).
	LocalImages bool
	// SecretFiles: smolvm accepts values by reference (1.4.0).
	SecretFiles bool
	// Labels: machines have labels (1.8.0).
	Labels bool
	// Command: create accepts a trailing command.
	Command bool
	// PolicyInList: ls shows the persisted policy (1.29.0).
	PolicyInList bool
	// EgressEvents: smolvm lists denials (1.8.1).
	EgressEvents bool
	// Artifacts: machines can be made from artifacts (1.7.7). Older releases
	// also accept artifacts, but they cache the unpacked content under a
	// checksum that the artifact's author chooses, and so may give one Bottle
	// the content of another Bottle's artifact.
	Artifacts bool
	// ArtifactPolicy: a machine made from an artifact keeps its policy (1.8.0).
	// Older releases silently drop it: Policy then shows no list, and only the
	// wall restricts such a machine.
	ArtifactPolicy bool
	// OwnUser: each VMM runs as a user of its own (1.2.5). Older releases run it
	// as root.
	OwnUser bool
	// Sessions is how many commands may run in one machine for users at the same time.
	// The guest's agent serves more, so that the agent's own commands always find a
	// free connection.
	Sessions int
	// Backend is the network of a machine that has a policy: "virtio-net", or
	// "tsi" (before 1.1.3), which may not enforce the policy.
	Backend string
	// Newer: this release is newer than the newest one that was measured.
	Newer bool
	// Older: this release is older than the oldest one with a supported command
	// line.
	Older bool
}

// ExecRequest is a command to run in a guest, with the machine's own
// environment. Exec does not limit the output: if that is needed, the writers
// must.
type ExecRequest struct {
	Command []string
	Stdin   io.Reader // nil for none
	Stdout  io.Writer
	Stderr  io.Writer
	Timeout time.Duration // 0 means no limit but the context's; a timeout gives exit code 124
	// TTY gives the command a terminal. Stderr is then part of Stdout. The end of
	// Stdin does not reach the command.
	TTY bool
	// Resize has the sizes of the terminal. If the first one comes soon, the command
	// starts with it. Exec reads Resize until it is closed or the command has ended. nil
	// means a terminal of 80 by 24 characters.
	Resize <-chan WindowSize
}

// Machines manages the smolvm machines of this node. Calls that write are
// serialised internally. The number of starts is not limited; that is the
// caller's job. All methods that act refuse a name that no Bottle can have, with
// ErrInvalid. ErrUnavailable means that smolvm is missing or does not answer,
// ErrUnsupported that this version of smolvm cannot do what was requested.
type Machines interface {
	// Version returns the version of the node's smolvm and its capabilities.
	Version(ctx context.Context) (SmolvmVersion, error)
	// ListMachines returns every machine of smolvm, ours and others'. Each call
	// runs smolvm once and caches nothing. smolvm takes seconds for each machine
	// that does not answer.
	ListMachines(ctx context.Context) ([]Machine, error)
	// ArtifactCommand returns the command of the artifact at this path: its entrypoint,
	// followed by its cmd; nil if it has neither. The error is ErrInvalid if the
	// manifest cannot be read, or if CheckCommand refuses the command.
	ArtifactCommand(ctx context.Context, path string) ([]string, error)
	// CreateMachine creates the machine without starting it. It returns
	// ErrConflict when a machine with that name exists, ErrInvalid when smolvm
	// refuses the spec, and ErrDiskTooSmall when the image cannot fit on the data
	// disk. If smolvm makes a machine that has a device, a size or anything else
	// that the spec does not ask for, no machine is left, and the error is
	// ErrInvalid.
	CreateMachine(ctx context.Context, spec MachineSpec) error
	// StartMachine starts a created or stopped machine and waits until it
	// answers. It returns nil when the machine is running already, ErrNotFound
	// or ErrBootFailed. It refuses an unreachable machine with ErrUnavailable,
	// because a start would kill it: the caller must first stop the machine,
	// after more than one observation. After a failed or killed start no VMM is
	// left.
	//
	// smolvm, and so the VMM with every connection of its guest, starts in the
	// machine's cgroup and in the network namespace of the file netns; "" means
	// the caller's own namespace. If the file is not a network namespace,
	// StartMachine returns ErrUnavailable and starts nothing.
	StartMachine(ctx context.Context, name, netns string) error
	// StopMachine stops a machine. It returns nil when the machine is stopped or
	// absent. When it returns nil, no VMM is left.
	StopMachine(ctx context.Context, name string) error
	// DeleteMachine stops and deletes a machine and checks that no record,
	// process, cgroup or folder is left. It returns nil when the machine is
	// absent. An earlier call that was interrupted may have left a process or a
	// folder of a machine that is no longer listed: this call removes them too.
	DeleteMachine(ctx context.Context, name string) error
	// Exec runs a command in a running guest and returns its exit code. A command
	// that the guest does not have gives a code of 126 or higher. Exec returns
	// ErrNotRunning or ErrNotFound; any other error comes from smolvm, not from
	// the command.
	Exec(ctx context.Context, name string, req ExecRequest) (int, error)
	// Copy copies one file from the node into a running guest, with mode 0755.
	Copy(ctx context.Context, name, from, to string) error
	// OpenLog opens a log of a machine, running or not: generation 0 is the file that
	// is written now, 1 the one before it, and so on, less than MaxLogGenerations. It
	// returns ErrNotFound when there is no such file or machine, and ErrInvalid when the
	// file is not regular, because the machine's user has replaced it.
	OpenLog(ctx context.Context, name string, log MachineLog, generation int) (LogFile, error)
	// BoundLogs frees the oldest part of each log of a machine that takes more than
	// limit bytes on the disk. What is left is at most half of limit, and stays at its
	// offset. BoundLogs returns how many bytes it freed. It is cheap if it has nothing to
	// do.
	BoundLogs(ctx context.Context, name string, limit int64) (freed int64, err error)
	// WatchExit calls exited with the machine's name as soon as the VMM with
	// this PID and start time ends. It returns immediately; the watch ends with
	// ctx.
	WatchExit(ctx context.Context, m Machine, exited func(name string)) error

	// VMMs returns every living process of these machines. It identifies them by
	// their cgroups, not by their command lines. It asks only the kernel: neither
	// smolvm nor a lock can delay it, and it is cheap enough to be called every
	// second for hundreds of machines. A VMM that this agent did not start is
	// adopted: once it is proved to belong to a machine, it is moved into that
	// machine's cgroup. An error means that nothing could be found out.
	VMMs(ctx context.Context, names []string) ([]VMM, error)
	// Lives reports whether VMMs would return a process of this machine. It is cheaper
	// for a machine that lives: it then looks at no other process.
	Lives(ctx context.Context, name string) (bool, error)
	// KillMachine kills every process of a machine with SIGKILL, immediately and
	// without asking smolvm, whatever other call is working on the machine, even
	// a start. It returns nil when the machine is absent. Otherwise it returns
	// nil only once the kernel reports that the machine's cgroup is empty: every
	// process that was in it is dead.
	KillMachine(ctx context.Context, name string) error
	// Policy returns the policy that smolvm persisted. It returns ErrNotFound,
	// or ErrUnsupported when this version does not let it be read.
	Policy(ctx context.Context, name string) (Policy, error)
	// Denials returns the connections that smolvm itself refused the machine, in
	// smolvm's order: at most MaxDenials, the newest if there are more. It
	// returns none for an unknown machine. ErrUnsupported before 1.8.1.
	Denials(ctx context.Context, name string) ([]Denial, error)
}
