// SPDX-License-Identifier: Apache-2.0

// Package cgroup manages one control group (cgroup v2) for each machine, below
// a common parent or in the cgroup of a Pod. A process cannot leave its cgroup, and
// an unprivileged user cannot move a process into one. The cgroup therefore
// identifies a machine's processes, whatever they write into their command lines.
//
// A Pod's cgroup belongs to kubelet, which kills what is in it and removes it, with
// all cgroups below, when the Pod ends. This package asks neither kubelet nor a
// container runtime where a machine is: it knows how kubelet names Pods.
//
// It requires the unified hierarchy, with or without controllers. In the hybrid
// layout, where version 1 has the controllers, it can identify and kill
// processes, but cannot set limits. It requires cgroup.kill (Linux 5.14).
//
// It knows nothing about smolvm: the caller decides which processes are moved
// into a cgroup. It never moves a process out of one.
package cgroup
