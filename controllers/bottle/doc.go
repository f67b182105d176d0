// SPDX-License-Identifier: Apache-2.0

// Package bottle is the agent's side of a Bottle: on one node it makes true
// what the Bottles placed there ask for, says so in their status, and takes
// away what belongs to none of them. It orders steps and does the I/O between
// them through the ports of internal/host; it chooses no node (package
// placement does), speaks to no dockerd or smolvm itself, and keeps nothing in
// memory that it could not find out again after a restart.
//
// The steps, in order, are in steps.go; docs/reconcile.md tells what each does.
package bottle

// What the agent may do in the API server. Secrets and ConfigMaps are read one
// by one, by name: RBAC cannot say so for a list or watch, namedwatch does.
//
// +kubebuilder:rbac:groups=botbottle.dev,resources=bottles,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=botbottle.dev,resources=bottles/status,verbs=get;patch
// +kubebuilder:rbac:groups=botbottle.dev,resources=bottles/finalizers,verbs=update
// +kubebuilder:rbac:groups="",resources=secrets;configmaps,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups="",resources=nodes/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=namespaces,resourceNames=kube-system,verbs=get
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=bottle-system,resources=leases,verbs=get;create;patch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch
