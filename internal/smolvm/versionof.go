// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"fmt"
	"os"

	"botbottle.dev/bottle-operator/internal/host"
)

// VersionOf returns the version of the smolvm in a folder, for a program that does not
// drive it. It may be called while a Driver uses the same smolvm.
func VersionOf(ctx context.Context, dir string) (host.SmolvmVersion, error) {
	home, err := os.MkdirTemp("", "smolvm-version-")
	if err != nil {
		return host.SmolvmVersion{}, fmt.Errorf("smolvm: %w: %w", host.ErrUnavailable, err)
	}
	defer os.RemoveAll(home)
	return New(Options{Dir: dir, Home: home}).Version(ctx)
}
