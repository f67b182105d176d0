// SPDX-License-Identifier: Apache-2.0

// Package machine defines the record of a machine, the rules for its fields, and
// the JSON that `ls` and `status` show. The keys of that JSON match what each
// release of smolvm was observed to print. The package does no I/O.
package machine

// States, spelt like in smolvm.
const (
	Created     = "created"
	Running     = "running"
	Stopped     = "stopped"
	Unreachable = "unreachable"
)

// Record is a machine as stored in the database. Like smolvm's own records it
// holds env values in clear text, but only references to secrets.
type Record struct {
	Name         string `json:"name"`
	State        string `json:"state"`
	PID          int    `json:"pid,omitempty"`
	PIDStartTime uint64 `json:"pid_start_time,omitempty"`
	CreatedAt    int64  `json:"created_at"`
	CPUs         int    `json:"cpus"`
	MemoryMiB    uint32 `json:"mem"`
	Disks
	GPU            *bool             `json:"gpu"` // nil unless a pack asks for it
	Network        bool              `json:"network"`
	NetworkBackend string            `json:"network_backend,omitempty"`
	AllowedCIDRs   []string          `json:"allowed_cidrs"`
	DNS            string            `json:"dns,omitempty"`
	Env            [][2]string       `json:"env"`
	SecretRefs     map[string]Secret `json:"secret_refs,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Mounts         []Mount           `json:"mounts"`
	Ports          []string          `json:"ports"`
	Image          string            `json:"image,omitempty"`
	Source         string            `json:"source_smolmachine,omitempty"` // the pack that it was made from
	Entrypoint     []string          `json:"entrypoint"`
	Cmd            []string          `json:"cmd"`
	Workdir        string            `json:"workdir,omitempty"`
	User           string            `json:"user,omitempty"`
	Init           []string          `json:"init"`
	InitDone       bool              `json:"init_completed"`
	LastExit       *LastExit         `json:"last_exit,omitempty"`

	RestartPolicy     string   `json:"restart_policy"`
	RestartMaxRetries int      `json:"restart_max_retries"`
	HealthCmd         []string `json:"health_cmd,omitempty"`
	HealthInterval    *int     `json:"health_interval_secs,omitempty"`
	HealthTimeout     *int     `json:"health_timeout_secs,omitempty"`
	HealthRetries     *int     `json:"health_retries,omitempty"`
	HealthGrace       *int     `json:"health_startup_grace_secs,omitempty"`
}

// Secret says where to read a secret's value at each launch. Exactly one field
// is set.
type Secret struct {
	FromFile string `json:"from_file,omitempty"`
	FromEnv  string `json:"from_env,omitempty"`
}

// Mount is a host directory that is mounted in the guest.
type Mount struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only"`
}

// LastExit describes how the VMM's last run ended. Exactly one of ExitCode and
// Signal is set.
type LastExit struct {
	Cause    string `json:"cause"`
	ExitCode *int   `json:"exit_code,omitempty"`
	AtMillis int64  `json:"exited_at_unix_ms"`
	PID      int    `json:"pid"`
	Signal   *int   `json:"signal,omitempty"`
}
