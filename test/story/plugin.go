// SPDX-License-Identifier: Apache-2.0

package story

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/require"
)

// Plugin returns "kubectl bottle" with arguments, as a user runs it: with KUBECONFIG and
// PATH alone. The context ends it.
func (c *Cluster) Plugin(ctx context.Context, t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	bin := filepath.Dir(c.Dir)
	require.File(t, filepath.Join(bin, "kubectl-bottle"), "make build")
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "kubectl"), append([]string{"bottle"}, args...)...)
	cmd.Env = []string{"KUBECONFIG=" + c.Kubeconfig, "PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TERM=xterm"}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Bottle runs "kubectl bottle" with input and returns its result.
func (c *Cluster) Bottle(t testing.TB, in io.Reader, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*c.Timeout)
	defer cancel()
	cmd := c.Plugin(ctx, t, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Errorf("kubectl bottle %q: %v", args, err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}
