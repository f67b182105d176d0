// SPDX-License-Identifier: Apache-2.0

// Package uninstall keeps the operator from being removed while Bottles exist. It marks
// the CRD, which the admission policy bottle-uninstall reads, and holds the operator's own
// policies. It refuses nothing itself, and knows nothing about nodes.
package uninstall
