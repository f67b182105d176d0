// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
)

// exitKilled is the exit code of a process that SIGKILL ended.
const exitKilled = 137

// cpuPeriod is the period of the CPU quota, in µs: a container that has used up its quota
// waits for the next period. With Docker's default of 100 ms, a container with the
// default limit gets 25 ms in each period, but the built-in bundle needs about twice as
// much to start, so each start would wait for a second period.
const cpuPeriod = 400_000

// cpuQuota converts CPU time in millicores to Docker's quota, µs per cpuPeriod.
func cpuQuota(millis int64) int64 { return millis * cpuPeriod / 1000 }

// resourcesOf returns the limits in docker's form. There is always a limit.
func resourcesOf(limits machinesize.Bundle) container.Resources {
	if limits.CPUMillis <= 0 {
		limits.CPUMillis = machinesize.DefaultBundle.CPUMillis
	}
	if limits.MemoryBytes <= 0 {
		limits.MemoryBytes = machinesize.DefaultBundle.MemoryBytes
	}
	pids := int64(host.BundlePids)
	return container.Resources{
		CPUPeriod: cpuPeriod,
		CPUQuota:  cpuQuota(limits.CPUMillis),
		Memory:    limits.MemoryBytes,
		// Memory and swap together: no swap.
		MemorySwap: limits.MemoryBytes,
		PidsLimit:  &pids,
	}
}

// checkLimits returns ErrUnavailable if the node cannot limit containers: docker
// would ignore some of the limits. It lowers a CPU limit to the CPUs that the
// node has.
func (e *Engine) checkLimits(ctx context.Context, r *container.Resources) error {
	cpus, err := e.limitable(ctx)
	if err == nil && cpus > 0 {
		r.CPUQuota = min(r.CPUQuota, cpuQuota(int64(cpus)*1000))
	}
	return err
}

// limitable returns the number of the node's CPUs, or ErrUnavailable if the node
// lacks a controller, which no change of the Bottle can repair. It asks docker until
// docker reports all controllers.
func (e *Engine) limitable(ctx context.Context) (cpus int, err error) {
	e.mu.Lock()
	cpus = e.cpus
	e.mu.Unlock()
	if cpus > 0 {
		return cpus, nil
	}
	var info client.SystemInfoResult
	err = e.read(ctx, "ask docker which limits it can set", func(ctx context.Context) (err error) {
		info, err = e.calls().Info(ctx, client.InfoOptions{})
		return err
	})
	if err != nil {
		return 0, err
	}
	var missing []string
	for name, ok := range map[string]bool{"memory": info.Info.MemoryLimit, "cpu": info.Info.CPUCfsQuota, "pids": info.Info.PidsLimit} {
		if !ok {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		slices.Sort(missing) // the message is the same in every pass
		return 0, fmt.Errorf("docker cannot limit containers on this node: enable the kernel's cgroup controllers %s: %w", strings.Join(missing, ", "), host.ErrUnavailable)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cpus = info.Info.NCPU
	return info.Info.NCPU, nil
}

// equalLimits reports whether the container has these limits, and no restart policy,
// which docker update can change, too. Docker reports no swap limit where the kernel
// cannot set one.
func equalLimits(c container.InspectResponse, want container.Resources) bool {
	have := c.HostConfig.Resources
	return c.HostConfig.RestartPolicy.Name == container.RestartPolicyDisabled &&
		have.CPUPeriod == want.CPUPeriod && have.CPUQuota == want.CPUQuota && have.Memory == want.Memory &&
		have.PidsLimit != nil && *have.PidsLimit == *want.PidsLimit
}

// limitBundle changes the limits of an existing container, running or not. If
// that is impossible, for example because the container uses more memory, it
// returns an unfitError.
func (e *Engine) limitBundle(ctx context.Context, c container.InspectResponse, want container.Resources) (container.InspectResponse, error) {
	owner := ownerOf(c.Config.Labels)
	err := e.write(ctx, fmt.Sprintf("limit docker container %q", owner.ID()), func(ctx context.Context) error {
		_, err := e.calls().ContainerUpdate(ctx, c.ID, client.ContainerUpdateOptions{
			Resources:     &want,
			RestartPolicy: &container.RestartPolicy{Name: container.RestartPolicyDisabled},
		})
		return err
	})
	if errors.Is(err, host.ErrUnavailable) {
		return c, err
	}
	if err == nil {
		c, err = e.findBundle(ctx, owner)
	}
	switch {
	case errors.Is(err, host.ErrUnavailable), errors.Is(err, host.ErrConflict):
		return c, err
	case err != nil:
		return c, unfitError(err.Error())
	case !equalLimits(c, want):
		return c, unfitError(fmt.Sprintf("docker container %q does not have the limits that were set", owner.ID()))
	}
	return c, nil
}

// outOfMemory reports whether the container ended because it exceeded its memory
// limit. Docker sets OOMKilled also when only a child process was killed, so the exit
// code is compared, too.
func outOfMemory(c container.InspectResponse) bool {
	return c.State.Status == container.StateExited && c.State.OOMKilled && c.State.ExitCode == exitKilled
}
