// SPDX-License-Identifier: Apache-2.0

// Package helm runs Helm for tests. It does not build it: make helm and make helm3 do.
package helm

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
)

// Run runs the Helm at path, and returns what it writes to its standard output. An error
// also has what it writes to its standard error.
func Run(ctx context.Context, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("helm %q: %w\n%s%s", args, err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}
