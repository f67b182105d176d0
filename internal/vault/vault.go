// SPDX-License-Identifier: Apache-2.0

// Package vault implements host.Vault: one file system in memory for the whole node,
// with a folder for each Bottle, of which only the folder of its own Bottle is mounted
// into a bundle. It does not know what the files mean.
package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/atomicfile"
	"botbottle.dev/bottle-operator/internal/host"
)

// MaxFile is the maximum size of a file in bytes.
const MaxFile = 8 << 20

// Options of a Vault. All are required.
type Options struct {
	// Dir is where the file system is mounted.
	Dir string
	// Reader is the number of the user and of the group that bundles run as.
	Reader int
}

// Vault implements host.Vault. It mounts the file system when it needs it, finds the
// one that an earlier agent mounted, and unmounts it with the last folder.
type Vault struct {
	options Options
	mu      sync.Mutex // serialises changes
}

var _ host.Vault = (*Vault)(nil)

// New returns the vault of this node. It does no I/O.
func New(o Options) *Vault { return &Vault{options: o} }

var (
	uidPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)
	namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,63}(\.[a-z]{1,8})?$`)
)

// bundleDir is the name of the folder below a Bottle's folder that its bundle sees.
// Only root can enter the folders above it.
const bundleDir = "bundle"

func (v *Vault) folder(uid string) string { return filepath.Join(v.options.Dir, uid, bundleDir) }

// EnsureFolder implements host.Vault.
func (v *Vault) EnsureFolder(_ context.Context, uid string) (string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !uidPattern.MatchString(uid) {
		return "", fmt.Errorf("vault: %q is not a UID: %w", uid, host.ErrInvalid)
	}
	if err := v.ensureFolder(uid); err != nil {
		return "", fmt.Errorf("vault of %s: %w", uid, err)
	}
	return v.folder(uid), nil
}

func (v *Vault) ensureFolder(uid string) error {
	if err := ensureMounted(v.options.Dir); err != nil {
		return err
	}
	if err := ensureDir(filepath.Dir(v.folder(uid)), 0o700); err != nil {
		return err
	}
	folder := v.folder(uid)
	if err := ensureDir(folder, 0o500); err != nil {
		return err
	}
	if err := os.Lchown(folder, v.options.Reader, v.options.Reader); err != nil {
		return err
	}
	return removeTemporary(folder)
}

// removeTemporary removes what an agent left that ended while it wrote a file.
func removeTemporary(folder string) error {
	left, err := filepath.Glob(filepath.Join(folder, atomicfile.TempPrefix+"*"))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// ReadFile implements host.Vault.
func (v *Vault) ReadFile(_ context.Context, uid, name string) ([]byte, error) {
	var data []byte
	err := v.within(uid, name, func(dir int) (err error) {
		data, err = readAt(dir, name)
		return err
	})
	return data, err
}

// WriteFile implements host.Vault.
func (v *Vault) WriteFile(_ context.Context, uid, name string, data []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(data) > MaxFile {
		return fmt.Errorf("vault of %s: %s has more than the limit of %d bytes: %w", uid, name, MaxFile, host.ErrInvalid)
	}
	return v.within(uid, name, func(dir int) error { return replaceAt(dir, name, data, access{v.options.Reader, 0o400}) })
}

// RemoveFile implements host.Vault.
func (v *Vault) RemoveFile(_ context.Context, uid, name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	err := v.within(uid, name, func(dir int) error { return unix.Unlinkat(dir, name, 0) })
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	return err
}

// RemoveFolder implements host.Vault.
func (v *Vault) RemoveFolder(_ context.Context, uid string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !uidPattern.MatchString(uid) {
		return fmt.Errorf("vault: %q is not a UID: %w", uid, host.ErrInvalid)
	}
	err := os.RemoveAll(filepath.Dir(v.folder(uid)))
	if err == nil {
		err = v.unmountIfEmpty()
	}
	if err != nil {
		return fmt.Errorf("vault of %s: %w", uid, err)
	}
	return nil
}

// Sweep removes the folders of all Bottles but these. It is for the start of an agent,
// before it creates any.
func (v *Vault) Sweep(ctx context.Context, keep []string) error {
	kept := map[string]bool{}
	for _, uid := range keep {
		kept[uid] = true
	}
	entries, err := os.ReadDir(v.options.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if uidPattern.MatchString(e.Name()) && !kept[e.Name()] {
			err = errors.Join(err, v.RemoveFolder(ctx, e.Name()))
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return errors.Join(err, v.unmountIfEmpty())
}

// within calls do with the descriptor of the Bottle's folder, after it has checked that
// the folder is in memory.
func (v *Vault) within(uid, name string, do func(dir int) error) error {
	if !uidPattern.MatchString(uid) || !namePattern.MatchString(name) {
		return fmt.Errorf("vault: %q of %q: not a UID with a name of a file: %w", name, uid, host.ErrInvalid)
	}
	return wrap(uid, name, inFolder(v.folder(uid), do))
}

// inFolder calls do with the descriptor of a folder, after it has checked that the folder
// is in memory.
func inFolder(path string, do func(dir int) error) error {
	dir, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if err := inMemory(dir); err != nil {
		return err
	}
	return do(dir)
}

// wrap adds to an error what it concerns, and its kind.
func wrap(uid, name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("vault of %s: %s: %w", uid, name, host.ErrNotFound)
	case err != nil:
		return fmt.Errorf("vault of %s: %s: %w", uid, name, err)
	}
	return nil
}
