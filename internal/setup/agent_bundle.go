// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"botbottle.dev/bottle-operator/internal/docker"
)

// bundleProgram returns a path of bottle-bundle that stays the same program even after
// an upgrade has replaced the file. It is valid as long as this process runs.
func (o *AgentOptions) bundleProgram() (string, error) {
	path, err := programPath("bundle-program", o.BundleProgram, "bottle-bundle")
	if err != nil {
		return "", err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("--bundle-program: open %s: %w", path, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), nil
}

// loadBundleImage loads the built-in bundle image before a bundle needs it. If
// Docker is down, the image is loaded later, when the first bundle needs it.
func loadBundleImage(engine *docker.Engine, program string) manager.RunnableFunc {
	return func(ctx context.Context) error {
		reference, err := engine.LoadBundleImage(ctx, program)
		switch {
		case err != nil && ctx.Err() == nil:
			ctrl.Log.Error(err, "Could not load the built-in bundle image yet")
		case err == nil:
			ctrl.Log.Info("Loaded the built-in bundle image", "image", reference)
		}
		return nil
	}
}
