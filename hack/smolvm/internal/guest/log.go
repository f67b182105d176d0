// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxLog is the size in bytes at which the workload's log is rotated, and oldLogs
	// the number of older files that are kept: workload.log.1 is the newest of them. As
	// smolvm does, the log is copied to it and then emptied.
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

func (l *workloadLog) open() (err error) {
	l.file, err = openIn(l.dir, WorkloadLog, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND)
	return err
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
	for i := oldLogs; i > 1; i-- {
		_ = unix.Renameat(dir, fmt.Sprintf("%s.%d", WorkloadLog, i-1), dir, fmt.Sprintf("%s.%d", WorkloadLog, i))
	}
	if l.copy() == nil {
		_ = l.file.Truncate(0)
	}
}

// copy copies the log to a new file, the newest of the older ones.
func (l *workloadLog) copy() error {
	to, err := openIn(l.dir, WorkloadLog+".1", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	defer to.Close()
	from, err := openIn(l.dir, WorkloadLog, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = io.Copy(to, from)
	return err
}

func openIn(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
