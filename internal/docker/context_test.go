// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"testing"
	"time"
)

// background returns a context for cleanup, when the test's own context has
// ended.
func background(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
