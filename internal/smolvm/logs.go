// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/untrusted"
)

// logFiles are the names of the logs in a machine's folder. From 1.29.0 on, smolvm
// rotates workload.log: 1.32.2 copies it to workload.log.1 and then empties it.
var logFiles = map[host.MachineLog]string{
	host.WorkloadLog: "workload.log",
	host.ConsoleLog:  "agent-console.log",
}

// OpenLog implements host.Machines. It does not ask smolvm, so that the logs of a
// machine can be read whatever state it is in.
func (d *Driver) OpenLog(_ context.Context, name string, log host.MachineLog, generation int) (host.LogFile, error) {
	what := fmt.Sprintf("%s log of machine %s", log, name)
	file, ok := logFiles[log]
	if err := checkName(name); err != nil || !ok || generation < 0 || generation >= host.MaxLogGenerations {
		return nil, fmt.Errorf("%s, generation %d: %w", what, generation, host.ErrInvalid)
	}
	if generation > 0 {
		file += "." + strconv.Itoa(generation)
	}
	f, err := untrusted.OpenSingle(d.dataDir(name), file)
	if err != nil {
		return nil, logError(what, err)
	}
	return f, nil
}

func logError(what string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", what, host.ErrNotFound)
	case errors.Is(err, untrusted.ErrNotRegular):
		return fmt.Errorf("%s: %w: not a regular file", what, host.ErrInvalid)
	}
	return fmt.Errorf("%s: %w: %w", what, host.ErrUnavailable, err)
}

// BoundLogs implements host.Machines. It punches a hole into the beginning of the
// file: whoever writes to it or reads it, at whatever offset, is not disturbed.
func (d *Driver) BoundLogs(_ context.Context, name string, limit int64) (freed int64, err error) {
	if err := checkName(name); err != nil {
		return 0, err
	}
	var errs []error
	for log, file := range logFiles {
		n, err := boundFile(d.dataDir(name), file, limit)
		freed += n
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, logError(fmt.Sprintf("%s log of machine %s", log, name), err))
		}
	}
	return freed, errors.Join(errs...)
}

func boundFile(dir, file string, limit int64) (freed int64, err error) {
	f, err := untrusted.OpenToWrite(dir, file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, used, err := extent(f)
	if err != nil || used <= limit {
		return 0, err
	}
	const block = 4096 // only whole blocks are freed
	end := (size - limit/2) / block * block
	if end <= 0 {
		return 0, nil
	}
	if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, end); err != nil {
		return 0, &fs.PathError{Op: "punch a hole into", Path: f.Name(), Err: err}
	}
	_, now, err := extent(f)
	return max(0, used-now), err
}

// extent returns the size of a file and the bytes that it takes on the disk.
func extent(f *os.File) (size, used int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		used = st.Blocks * 512
	}
	return info.Size(), used, nil
}
