// SPDX-License-Identifier: Apache-2.0

// Package require states what a test needs of the machine it runs on.
// On a laptop a test whose need is unmet is skipped with the reason; where
// REQUIRE_ALL=1 is set, as in CI, it fails instead, so that no layer can
// vanish unnoticed. Under -short, which asks for the layers that need nothing
// but Go, every such test is skipped. It installs nothing and starts nothing.
package require

import (
	"os"
	"testing"
)

// Unmet ends the test: skipped with the reason, or failed when REQUIRE_ALL=1.
func Unmet(t testing.TB, reason string) {
	t.Helper()
	Full(t, reason)
	if os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatalf("REQUIRE_ALL=1: %s", reason)
	}
	t.Skip(reason)
}

// Full skips the test under -short: it belongs to a layer that needs more
// than Go.
func Full(t testing.TB, what string) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: " + what)
	}
}

// Root ends the test unless it runs as root.
func Root(t testing.TB) {
	t.Helper()
	Full(t, "needs root")
	if os.Geteuid() != 0 {
		Unmet(t, "needs root: run the tests as root")
	}
}

// File ends the test unless path exists; how says how to get it.
func File(t testing.TB, path, how string) {
	t.Helper()
	Full(t, "needs "+path)
	if _, err := os.Stat(path); err != nil {
		Unmet(t, "needs "+path+": "+how)
	}
}

// Env returns the value of an environment variable and ends the test when it
// is empty; how says what sets it.
func Env(t testing.TB, name, how string) string {
	t.Helper()
	Full(t, "needs $"+name)
	v := os.Getenv(name)
	if v == "" {
		Unmet(t, "needs $"+name+": "+how)
	}
	return v
}
