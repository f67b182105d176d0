// SPDX-License-Identifier: Apache-2.0

// Package argocd tests what the operator ships for Argo CD: the script in
// config/argocd that computes the health of a Bottle. It runs the script as Argo CD
// does. It does not run Argo CD.
package argocd
