// SPDX-License-Identifier: Apache-2.0

// Package placeholder renders a Bottle's placeholder Pod: what kube-scheduler books for
// the Bottle, and its bundle as the Pod's only container. A node whose bundles run in
// Docker does not use that container. The package creates no Pods and decides nothing
// about those that exist.
package placeholder
