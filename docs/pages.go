// SPDX-License-Identifier: Apache-2.0

// Package docs has pages of the documentation for programs that quote them, so that
// what they say is written in one place. It has no other code.
package docs

import _ "embed"

// Failures is failures.md: what to do about each reason.
//
//go:embed failures.md
var Failures string

// Conditions is conditions.md: what each condition and reason means.
//
//go:embed conditions.md
var Conditions string
