// SPDX-License-Identifier: Apache-2.0

// Package require lets a test state what it needs from the machine it runs on. On
// a laptop, a test whose requirement is not met is skipped with the reason. With
// REQUIRE_ALL=1, as in CI, it fails instead, so that no layer can disappear
// unnoticed. With -short, which selects the layers that need only Go, every such
// test is skipped. The package installs and starts nothing.
package require

import (
	"os"
	"testing"
)

// Unmet ends the test: it skips the test with the reason, or fails it if
// REQUIRE_ALL=1.
func Unmet(t testing.TB, reason string) {
	t.Helper()
	Full(t, reason)
	if os.Getenv("REQUIRE_ALL") == "1" {
		t.Fatalf("REQUIRE_ALL=1: %s", reason)
	}
	t.Skip(reason)
}

// Full skips the test under -short, because it belongs to a layer that needs more
// than Go.
func Full(t testing.TB, what string) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: " + what)
	}
}

// Long skips the test unless TEST_LONG=1, which hack/test-long sets, because the
// test is too slow for make test. It skips even with REQUIRE_ALL=1: that is about
// what the machine has. The name of such a test begins with TestLong.
func Long(t testing.TB) {
	t.Helper()
	if os.Getenv("TEST_LONG") != "1" {
		t.Skip("too slow for make test: run make test-long")
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

// File ends the test unless path exists. how tells the reader how to get it.
func File(t testing.TB, path, how string) {
	t.Helper()
	Full(t, "needs "+path)
	if _, err := os.Stat(path); err != nil {
		Unmet(t, "needs "+path+": "+how)
	}
}

// Env returns the value of an environment variable. It ends the test if the value
// is empty. how tells the reader what sets it.
func Env(t testing.TB, name, how string) string {
	t.Helper()
	Full(t, "needs $"+name)
	v := os.Getenv(name)
	if v == "" {
		Unmet(t, "needs $"+name+": "+how)
	}
	return v
}
