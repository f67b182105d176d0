// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/docker"
	"botbottle.dev/bottle-operator/internal/host"
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
		return "", fmt.Errorf("open %s: %w", path, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), nil
}

// docker returns a client for the node's Docker Engine, and what loads the built-in bundle
// image there. It does not contact dockerd, because a dockerd that hangs must not delay the
// agent's other work, and a node whose bundles run in Pods has none.
func (o *AgentOptions) docker(p parts, vault host.Vault) (*docker.Engine, manager.RunnableFunc, error) {
	engine, err := docker.New(docker.Options{Host: o.DockerHost, Folders: func(ctx context.Context, owner host.Owner) (rules, secrets string, err error) {
		folder, err := p.dir.Folder(owner.UID)
		if err != nil {
			return "", "", err
		}
		secrets, err = vault.EnsureFolder(ctx, owner.UID)
		return folder.BundleDir(), secrets, err
	}})
	if err != nil {
		return nil, nil, fmt.Errorf("--docker-host: %w", err)
	}
	program, err := o.bundleProgram()
	if err == nil {
		err = engine.UseBundleImage(program)
	}
	unused := !p.runtimes.set.Active(bundleruntime.Docker)
	switch {
	case err != nil && !unused:
		return nil, nil, fmt.Errorf("--bundle-program: %w", err)
	case unused:
		return engine, func(context.Context) error { return nil }, nil
	}
	return engine, loadBundleImage(engine, program), nil
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
