// SPDX-License-Identifier: Apache-2.0

package supervise_test

import (
	"testing"

	"botbottle.dev/bottle-operator/internal/supervise"
)

func TestEndsRun(t *testing.T) {
	const at = "2026-01-02T03:04:05.000000006Z "
	for tail, want := range map[string]bool{
		at + "stdout F x\n" + at + "system F exit 3\n": true,
		at + "system F signal 9\n":                     true,
		"F half a line\n" + at + "system F exit 0\n":   true,
		at + "system F exit 3":                         false,
		at + "system F exit 3\n" + at + "stdout F x\n": false,
		at + "system F run 2\n":                        false,
		at + "stdout F exit 3\n":                       false,
		"":                                             false,
		"\n":                                           false,
	} {
		if got := supervise.EndsRun([]byte(tail)); got != want {
			t.Errorf("%q: got %t, want %t", tail, got, want)
		}
	}
}
