// SPDX-License-Identifier: Apache-2.0

// Package cgroup keeps one control group (cgroup v2) for each machine, below
// one parent. A process cannot leave its cgroup and a user without privileges
// cannot move one into it, so that the cgroup identifies a machine's
// processes, whatever they write into their command lines.
//
// It needs the unified hierarchy, with or without controllers: the hybrid
// layout, where version 1 holds the controllers, serves for identity and
// killing, and sets no limits. It needs cgroup.kill, Linux 5.14.
//
// It knows nothing of smolvm: which process may be moved into a cgroup is the
// caller's decision. It never moves a process out of one.
package cgroup
