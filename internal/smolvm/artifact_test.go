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
		"none":              {nil, true},
		"plain":             {[]string{"A=", "-B= x \n", "C=d=e"}, true},
		"longest":           {[]string{"A=" + strings.Repeat("x", maxArg-len("--env=A="))}, true},
		"too long":          {[]string{"A=" + strings.Repeat("x", maxArg-len("--env=A=")+1)}, false},
		"ten of 100 KiB":    {many[:10], true},
		"eleven of 100 KiB": {many, false},
		"no value":          {[]string{"A=1", "HOME"}, false},
		"no name":           {[]string{"=1"}, false},
		"empty":             {[]string{""}, false},
		"a NUL":             {[]string{"A=1\x00B=2"}, false},
		"not UTF-8":         {[]string{"A=\xff"}, false},
		"control character": {[]string{"A\nB=\x00"}, false},
	} {
		err := checkEnv(tt.env)
		if tt.ok != (err == nil) || err != nil && !errors.Is(err, host.ErrInvalid) {
			t.Errorf("%s: got %v, want accepted: %v", what, err, tt.ok)
		}
		if err != nil && (len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\n\x00")) {
			t.Errorf("%s: got %.500q, want a short line", what, err)
		}
	}
}

// maxArg is exactly the length of the longest argument that the kernel accepts.
func TestLongestArgument(t *testing.T) {
	run := func(n int) error {
		_, err := runner.Exec{}.Run(t.Context(), runner.Command{Path: "/bin/true", Args: []string{strings.Repeat("x", n)}, Timeout: versionTimeout})
		return err
	}
	if err := run(maxArg); err != nil {
		t.Errorf("%d bytes: got %v, want nil", maxArg, err)
	}
	if err := run(maxArg + 1); err == nil {
		t.Errorf("%d bytes: got nil, want the kernel to refuse it", maxArg+1)
	}
}
