// SPDX-License-Identifier: Apache-2.0

// Package api holds the tests of the Bottle API as a real API server serves
// it: what it refuses and with which words, what it keeps as it was given,
// and how it looks to kubectl and to GitOps tools. Controllers are not run.
package api
