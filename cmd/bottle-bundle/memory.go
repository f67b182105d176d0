// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// cgroupLimits are the files with a container's memory limit, for version 2 and
// version 1 of cgroups.
var cgroupLimits = []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}

const (
	// goShare is how much of its container's memory, in percent, the bundle's Go
	// runtime may use. The rest is for the program's pages and the kernel's
	// buffers of its connections.
	goShare = 60
	// memoryCheck is the interval at which the limit is read: the agent may
	// change it while the bundle runs.
	memoryCheck = 10 * time.Second
)

// fitMemory keeps the limit for the Go runtime in step with the container's memory limit,
// or with own if that is lower and not 0, until ctx ends. If GOMEMLIMIT sets a limit, it
// changes nothing.
func fitMemory(ctx context.Context, own int64, files []string) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	check := time.NewTicker(memoryCheck)
	defer check.Stop()
	for {
		debug.SetMemoryLimit(goMemory(own, files))
		select {
		case <-ctx.Done():
			return
		case <-check.C:
		}
	}
}

// goMemory returns the limit for the Go runtime, in bytes. It is
// math.MaxInt64 if neither the container nor the bundle has a limit.
func goMemory(own int64, files []string) int64 {
	if own <= 0 {
		own = math.MaxInt64
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && n > 0 && n < 1<<50 { // version 1 has a huge number for no limit
			return min(n, own) / 100 * goShare
		}
	}
	if own < math.MaxInt64 {
		return own / 100 * goShare
	}
	return math.MaxInt64
}
