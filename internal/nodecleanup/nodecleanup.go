// SPDX-License-Identifier: Apache-2.0

// Package nodecleanup removes what the operator left on a node that leaves the cluster for
// good: Bottles, folders and programs. It lists what there is, and then removes it in order.
// It does not know which things there are: its caller says so.
package nodecleanup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/untrusted"
)

// Step removes one thing.
type Step struct {
	// What is the thing, for the user to read.
	What string
	// Needed: if the step fails, the later ones are not carried out. They would remove what
	// is needed to try again.
	Needed bool
	// Do removes the thing. It returns nil if the thing does not exist.
	Do func(ctx context.Context) error
}

// List writes what would be removed.
func List(out io.Writer, steps []Step) error {
	for _, s := range steps {
		if _, err := fmt.Fprintln(out, "would remove", s.What); err != nil {
			return err
		}
	}
	return nil
}

// Remove carries out the steps and writes what it removed. Of the steps that are needed,
// it carries out all before it gives up.
func Remove(ctx context.Context, out io.Writer, steps []Step) error {
	var errs []error
	stop := false
	for _, s := range steps {
		if stop && !s.Needed {
			continue
		}
		err := s.Do(ctx)
		if err == nil {
			_, err = fmt.Fprintln(out, "removed", s.What)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", s.What, err))
			stop = stop || s.Needed
		}
	}
	return errors.Join(errs...)
}

// Folder returns the step that removes a folder with everything in it, and no step if the
// folder does not exist. It follows no link and enters no other file system. If the folder
// is a mount point, it stays, empty.
func Folder(path string) ([]Step, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a folder: look at it and remove it", path)
	}
	return []Step{{What: "the folder " + path, Do: func(ctx context.Context) error { return removeFolder(ctx, path) }}}, nil
}

func removeFolder(ctx context.Context, path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, untrusted.RemoveAll(ctx, path, e.Name()))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Programs returns the step that removes /opt/NAME, if bottle-install made it. A folder that
// somebody else put there stays.
func Programs(opt, name string) ([]Step, error) {
	path := filepath.Join(opt, name)
	for _, part := range []struct {
		name string
		mode fs.FileMode
	}{{"versions", fs.ModeDir}, {"current", fs.ModeSymlink}} {
		info, err := os.Lstat(filepath.Join(path, part.name))
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().Type() != part.mode {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return Folder(path)
}
