// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"

	"golang.org/x/sys/unix"
)

// eachPID calls f for every process that /proc lists, until f returns an error.
// Unlike os.ReadDir, it allocates no string and no entry for each of them.
func eachPID(f func(pid int) error) error {
	fd, err := unix.Open("/proc", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	entries := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, entries)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		for rest := entries[:n]; len(rest) > 0; {
			name, size := direntName(rest)
			if size == 0 {
				return errors.New("/proc: malformed folder entry")
			}
			rest = rest[size:]
			pid, err := strconv.Atoi(string(name))
			if err != nil {
				continue
			}
			if err := f(pid); err != nil {
				return err
			}
		}
	}
}

// direntName returns the name in the first struct linux_dirent64 of b, and the
// size of the struct; 0 if it is malformed.
func direntName(b []byte) (name []byte, size int) {
	const sizeAt, nameAt = 16, 19
	if len(b) < nameAt {
		return nil, 0
	}
	size = int(binary.NativeEndian.Uint16(b[sizeAt:]))
	if size <= nameAt || size > len(b) {
		return nil, 0
	}
	name, _, _ = bytes.Cut(b[nameAt:size], []byte{0})
	return name, size
}
