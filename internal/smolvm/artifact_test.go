// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/runner"
)

func TestCheckEnv(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	var many []string
	for i := range 11 {
		many = append(many, fmt.Sprintf("N%d=%s", i, long))
	}
	for what, tt := range map[string]struct {
		env []string
		ok  bool
	}{
		"none":            {nil, true},
		"plain":           {[]string{"A=", "-B= x \n", "C=d=e"}, true},
		"as long as can":  {[]string{"A=" + strings.Repeat("x", maxWord-len("--env=A="))}, true},
		"longer":          {[]string{"A=" + strings.Repeat("x", maxWord-len("--env=A=")+1)}, false},
		"ten of 100 KiB":  {many[:10], true},
		"eleven of them":  {many, false},
		"no value":        {[]string{"A=1", "HOME"}, false},
		"no name":         {[]string{"=1"}, false},
		"empty":           {[]string{""}, false},
		"a NUL":           {[]string{"A=1\x00B=2"}, false},
		"not UTF-8":       {[]string{"A=\xff"}, false},
		"name of control": {[]string{"A\nB=\x00"}, false},
	} {
		err := checkEnv(tt.env)
		if tt.ok != (err == nil) || err != nil && !errors.Is(err, host.ErrInvalid) {
			t.Errorf("%s: got %v, want it accepted: %v", what, err, tt.ok)
		}
		if err != nil && (len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\n\x00")) {
			t.Errorf("%s: got %.500q, want a short line", what, err)
		}
	}
}

// A word of maxWord bytes is what a command line carries, and none longer.
func TestLongestWord(t *testing.T) {
	run := func(n int) error {
		_, err := runner.Exec{}.Run(t.Context(), runner.Command{Path: "/bin/true", Args: []string{strings.Repeat("x", n)}, Timeout: versionTimeout})
		return err
	}
	if err := run(maxWord); err != nil {
		t.Errorf("%d bytes: got %v, want nil", maxWord, err)
	}
	if err := run(maxWord + 1); err == nil {
		t.Errorf("%d bytes: got nil, want the kernel to refuse it", maxWord+1)
	}
}
