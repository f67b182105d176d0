// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"testing"
	"time"
)

// background is for cleaning up, when the test's own context has ended.
func background(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
