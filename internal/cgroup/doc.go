// SPDX-License-Identifier: Apache-2.0

// Package cgroup manages one control group (cgroup v2) for each machine, below
// a common parent. A process cannot leave its cgroup, and an unprivileged user
// cannot move a process into one. The cgroup therefore identifies a machine's
// processes, whatever they write into their command lines.
//
// It requires the unified hierarchy, with or without controllers. In the hybrid
// layout, where version 1 has the controllers, it can identify and kill
// processes, but cannot set limits. It requires cgroup.kill (Linux 5.14).
//
// It knows nothing about smolvm: the caller decides which processes are moved
// into a cgroup. It never moves a process out of one.
package cgroup
