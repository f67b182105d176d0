// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// maxLogFiles bounds how many files of a log are read. By default, the kubelet keeps five
	// for each run of the container, and only those of the last runs.
	maxLogFiles = 1000
	// maxUnpacked is how much of a compressed file is read, in bytes.
	maxUnpacked = 256 << 20
	// logBytes is how much of a container's log is read per second on average, and
	// logBytesBurst how much at once. The built-in bundle writes less.
	logBytes      = 64 << 10
	logBytesBurst = 1 << 20
)

// logName is the name of a log's file: N.log, where N counts the container's restarts, and
// N.log.TIME or N.log.TIME.gz after the kubelet has rotated it.
var logName = regexp.MustCompile(`^([0-9]{1,9})\.log(?:\.([0-9]{8}-[0-9]{6})(\.gz)?)?$`)

// logFile is a file of a container's log.
type logFile struct {
	name    string
	restart int
	rotated string // when it was rotated; "" for the one that is being written
	packed  bool
	changed time.Time
	inode   uint64
}

// logDir is the folder of a container's log. Its files are opened without following links.
type logDir struct{ *os.File }

// openLogDir opens the folder of the container's log.
func openLogDir(path string) (logDir, error) {
	if !filepath.IsAbs(path) || !logName.MatchString(filepath.Base(path)) {
		return logDir{}, fmt.Errorf("the container runtime shows no log of the container, but %q: %w", printable(path, 300), host.ErrUnavailable)
	}
	f, err := os.OpenFile(filepath.Dir(path), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return logDir{}, fmt.Errorf("open the container's log: %w: %w", host.ErrUnavailable, err)
	}
	return logDir{f}, nil
}

// list returns the files of the log, the oldest first.
func (d logDir) list() ([]logFile, error) {
	again, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(int(d.Fd())), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer again.Close()
	names, err := again.Readdirnames(maxLogFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var out []logFile
	for _, name := range names {
		m := logName.FindStringSubmatch(name)
		var st unix.Stat_t
		if m == nil || unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		f := logFile{name: name, rotated: m[2], packed: m[3] != "", changed: time.Unix(st.Mtim.Unix()), inode: st.Ino}
		f.restart, _ = strconv.Atoi(m[1]) // at most nine digits
		out = append(out, f)
	}
	slices.SortFunc(out, compareFiles)
	// While the kubelet compresses a file, both forms exist.
	return slices.CompactFunc(out, func(a, b logFile) bool { return a.restart == b.restart && a.rotated == b.rotated }), nil
}

func compareFiles(a, b logFile) int {
	last := func(f logFile) string {
		if f.rotated == "" {
			return "~" // after every time
		}
		return f.rotated
	}
	if a.restart != b.restart {
		return a.restart - b.restart
	}
	if c := strings.Compare(last(a), last(b)); c != 0 {
		return c
	}
	return strings.Compare(a.name, b.name) // the plain form first
}

// open opens a file of the log. It returns fs.ErrNotExist if it is gone.
func (d logDir) open(f logFile) (io.ReadCloser, error) {
	fd, err := unix.Openat(int(d.Fd()), f.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), f.name)
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, errors.Join(err, fmt.Errorf("%s is not a regular file", f.name))
	}
	if !f.packed {
		return file, nil
	}
	unpacked, err := gzip.NewReader(bufio.NewReader(file))
	if err != nil {
		file.Close()
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(unpacked, maxUnpacked), file}, nil
}

// tail returns the files that hold the last n lines, and how many lines of the first of
// them to leave out.
func (d logDir) tail(ctx context.Context, files []logFile, n int64) ([]logFile, int64, error) {
	for i, f := range slices.Backward(files) {
		if n == 0 {
			return files[i+1:], 0, nil
		}
		have, err := d.count(ctx, f)
		if err != nil {
			return nil, 0, err
		}
		if have >= n {
			return files[i:], have - n, nil
		}
		n -= have
	}
	return files, 0, nil
}

func (d logDir) count(ctx context.Context, f logFile) (lines int64, err error) {
	r, err := d.open(f)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer r.Close()
	for chunk := make([]byte, 64<<10); ctx.Err() == nil; {
		n, err := r.Read(chunk)
		lines += int64(bytes.Count(chunk[:n], []byte{'\n'}))
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, ctx.Err()
}

// copyLog passes the rest of a file to w, at the given pace.
func copyLog(ctx context.Context, w func([]byte) error, r io.Reader, pace pace) error {
	for chunk := make([]byte, 32<<10); ; {
		n, err := r.Read(chunk)
		if pace.limit != nil {
			if werr := pace.limit.WaitN(ctx, n); werr != nil {
				return werr
			}
		}
		p := chunk[:n]
		for pace.skip > 0 && len(p) > 0 {
			_, rest, ended := bytes.Cut(p, []byte{'\n'})
			if p = rest; ended {
				pace.skip--
			}
		}
		if werr := w(p); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// pace says how fast a file is read, and from which line on.
type pace struct {
	limit *rate.Limiter // of bytes; nil for no limit
	skip  int64         // how many lines at the beginning are left out
}
