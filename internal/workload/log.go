// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/supervise"
)

const (
	// logTimeout is how long a Bottle that ends waits for the end of its log.
	logTimeout = 10 * time.Second
	// maxEnd is the length in bytes of the longest line that ends a run.
	maxEnd = 128
)

// Logs opens the logs of machines, as host.Machines does.
type Logs interface {
	OpenLog(ctx context.Context, name string, log host.MachineLog, generation int) (host.LogFile, error)
}

// WaitsForLog reports whether the machine must not be stopped yet, because its command has
// ended and its log does not have the end of the run. Output that is on the way to the log
// when a machine is stopped is lost.
func WaitsForLog(ctx context.Context, f Facts, logs Logs, name string) bool {
	if !Ended(f) || f.Now.Sub(f.Record.Workload.Ending.Time) >= logTimeout {
		return false
	}
	file, err := logs.OpenLog(ctx, name, host.WorkloadLog, 0)
	if err != nil {
		return false // there is nothing to wait for
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return false
	}
	tail := make([]byte, min(info.Size(), maxEnd))
	n, _ := file.ReadAt(tail, info.Size()-int64(len(tail)))
	return !supervise.EndsRun(tail[:n])
}
