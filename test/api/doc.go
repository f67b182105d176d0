// SPDX-License-Identifier: Apache-2.0

// Package api tests the Bottle API as a real API server serves it: what it
// refuses and with which message, what it stores unchanged, and how it looks to
// kubectl and GitOps tools. It also tests the files in config/ and the agent's
// start. It runs no controllers in-process.
package api
