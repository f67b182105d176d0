// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/atomicfile"
	"botbottle.dev/bottle-operator/internal/cabundle"
	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/supervise"
)

// ensureIn creates In with a link to the guest program. A link to the program of an
// earlier release is replaced; a guest that runs from it keeps it.
func (e *Exchanges) ensureIn(_ context.Context, uid string) error {
	program, err := e.ensureProgram()
	if err != nil {
		return err
	}
	if err := e.ensureInDirs(uid); err != nil {
		return err
	}
	if e.hasProgram(uid, program) {
		return nil
	}
	link := filepath.Join(e.in(uid), atomicfile.TempPrefix+"program")
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(program, link); err != nil {
		return err
	}
	return os.Rename(link, filepath.Join(e.in(uid), supervise.Program))
}

// hasProgram reports whether In has a link to the program.
func (e *Exchanges) hasProgram(uid, program string) bool {
	have, err := os.Lstat(filepath.Join(e.in(uid), supervise.Program))
	want, err2 := os.Stat(program)
	return err == nil && err2 == nil && os.SameFile(have, want)
}

// ensureInDirs creates In. Each VMM runs as a user of its own, which must reach and read
// it.
func (e *Exchanges) ensureInDirs(uid string) error {
	if err := ensureDir(e.options.InDir, 0o711); err != nil {
		return err
	}
	return ensureDir(e.in(uid), 0o755)
}

// writeTrust writes the PEM file and the store, unless the PEM file is the same. The PEM
// file comes last, so that one that is the same says that the store belongs to it.
func writeTrust(dir string, pem []byte) error {
	path := filepath.Join(dir, supervise.PEMFile)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, pem) {
		return nil
	}
	store, err := cabundle.Store(pem, guestenv.StorePassword)
	if err == nil {
		err = atomicfile.Write(filepath.Join(dir, supervise.StoreFile), store, 0o644)
	}
	if err != nil {
		return err
	}
	return atomicfile.Write(path, pem, 0o644)
}

// ensureProgram copies the guest program once, so that the In folders can link to it
// wherever it was installed, and so that an installation cannot change it in place.
func (e *Exchanges) ensureProgram() (string, error) {
	path := filepath.Join(e.options.ProgramDir, supervise.Program)
	if e.copied {
		return path, nil
	}
	data, err := os.ReadFile(e.options.Program)
	if err != nil {
		return "", fmt.Errorf("guest program: %w", err)
	}
	if err := ensureDir(e.options.ProgramDir, 0o711); err != nil {
		return "", err
	}
	have, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(have, data) {
		if err := atomicfile.Write(path, data, 0o755); err != nil {
			return "", fmt.Errorf("guest program: %w", err)
		}
	}
	e.copied = true
	return path, nil
}

// ensureOut mounts a tmpfs on out, unless it is mounted already.
func (e *Exchanges) ensureOut(out string) error {
	if err := ensureDir(e.options.OutDir, 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(out, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if is, err := isMounted(out); err != nil || is {
		return err
	}
	if err := unix.Mount("tmpfs", out, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, outOptions); err != nil {
		return fmt.Errorf("mount the folder for reports: %w", err)
	}
	return nil
}

// createReport creates an empty report in out. The supervisor writes it in place, as
// whatever user it runs as.
func createReport(out string) error {
	f, err := os.OpenFile(filepath.Join(out, supervise.ReportFile), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o666), f.Close())
}

// isMounted reports whether something is mounted on the folder.
func isMounted(path string) (bool, error) {
	var here, above unix.Stat_t
	if err := errors.Join(unix.Lstat(path, &here), unix.Lstat(filepath.Dir(path), &above)); err != nil {
		return false, fmt.Errorf("folder for reports: %w", err)
	}
	return here.Dev != above.Dev, nil
}

// removeOut unmounts and removes out. Whoever still uses it keeps what it has open.
func removeOut(out string) error {
	for {
		err := unix.Unmount(out, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // nothing is mounted there
		}
		if err != nil {
			return fmt.Errorf("unmount the folder for reports: %w", err)
		}
	}
	if err := os.Remove(out); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ensureDir makes a directory with exactly this mode, regardless of the umask.
func ensureDir(path string, mode fs.FileMode) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm() == mode {
		return nil
	}
	return os.Chmod(path, mode)
}
