// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLog is the size in bytes at which the workload's log is rotated, and oldLogs
	// the number of older files that are kept: workload.log.1 is the newest of them.
	maxLog  = 10 << 20
	oldLogs = 3
	// drainPatience bounds the wait for the rest of the output when the machine stops.
	drainPatience = time.Second
)

// workloadLog writes the workload's output to files in the machine's folder. It works
// after the process has left the host's root, because it holds the folder open.
type workloadLog struct {
	dir  *os.File
	file *os.File
}

func openWorkloadLog(dir string) (*workloadLog, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	l := &workloadLog{dir: d}
	return l, l.open()
}

func (l *workloadLog) open() error {
	fd, err := unix.Openat(int(l.dir.Fd()), WorkloadLog, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("open %s: %w", WorkloadLog, err)
	}
	l.file = os.NewFile(uintptr(fd), WorkloadLog)
	return nil
}

// pump copies the output until the last process that has the other end is gone.
func (l *workloadLog) pump(from *os.File) {
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			l.write(buffer[:n])
		}
		if err != nil {
			return
		}
	}
}

// write drops what cannot be written.
func (l *workloadLog) write(b []byte) {
	_, _ = l.file.Write(b)
	if st, err := l.file.Stat(); err != nil || st.Size() <= maxLog {
		return
	}
	dir := int(l.dir.Fd())
	for i := oldLogs; i > 0; i-- {
		newer := WorkloadLog
		if i > 1 {
			newer = fmt.Sprintf("%s.%d", WorkloadLog, i-1)
		}
		_ = unix.Renameat(dir, newer, dir, fmt.Sprintf("%s.%d", WorkloadLog, i))
	}
	old := l.file
	if l.open() == nil {
		old.Close()
	}
}
