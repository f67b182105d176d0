// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/supervise"
)

// reportFile writes reports to the report folder. The guest may have filled the folder
// or changed what is in it.
type reportFile struct{ path string }

func newReportFile(folder string) reportFile {
	return reportFile{filepath.Join(folder, supervise.ReportFile)}
}

// write writes the report in place. After an error the caller tries again later.
func (f reportFile) write(r supervise.Report) error {
	record, err := supervise.Record(r)
	if err != nil {
		return err
	}
	file, err := f.open()
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteAt(record, 0); err != nil {
		return err
	}
	if info, err := file.Stat(); err == nil && info.Size() != int64(len(record)) {
		if err := file.Truncate(int64(len(record))); err != nil {
			return err
		}
	}
	return file.Sync()
}

// open opens the file, and replaces what is in its place if it is not a file that can
// be written. It never waits, also not for a pipe.
func (f reportFile) open() (*os.File, error) {
	file, err := f.tryOpen()
	if err == nil || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return file, err
	}
	if err := os.RemoveAll(f.path); err != nil {
		return nil, err
	}
	return f.tryOpen()
}

func (f reportFile) tryOpen() (*os.File, error) {
	// Everyone may write the file, because a later start may run as another user.
	file, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o666)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	if info.Mode().Perm() != 0o666 {
		_ = file.Chmod(0o666) // fails for the file of another user, which then is writable anyway
	}
	return file, nil
}
