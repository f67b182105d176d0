// SPDX-License-Identifier: Apache-2.0

// Package nodeinstall puts a version of a set of files on a node, beside the versions
// that are there, and then switches to it:
//
//	/opt/NAME/versions/VERSION/…
//	/opt/NAME/current  -> versions/VERSION
//	/opt/NAME/previous -> versions/OLD
//
// Each step is a rename, so a crash or a power cut leaves either the old or the new
// version current, and both complete. A version that is there stays as it is, because
// machines may run it.
//
// It does not start anything, and does not know what the files are for.
package nodeinstall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what to install and where.
type Options struct {
	// From is the folder with the new version's files.
	From string
	// Files are the names in From that make up the version. Empty means all.
	Files []string
	// HostRoot is the folder at which the node's root is mounted.
	HostRoot string
	// Name is the folder below /opt.
	Name string
	// Version is the version's name. Empty means a name made from the files' digest.
	Version string
	// Ignored are patterns (filepath.Match) of paths in an installed version that processes
	// create and remove while they use it, and that say nothing about its completeness.
	Ignored []string
	// Proc lists the node's processes. Empty means /proc below HostRoot.
	Proc string
	// InspectTimeout bounds the look at the node's processes. 0 means a minute.
	InspectTimeout time.Duration
}

// Result is what Install did.
type Result struct {
	// Version is the name of the current version's folder.
	Version string
	// Copied reports whether the version was not there before.
	Copied bool
	// Switched reports whether another version was current before, or none.
	Switched bool
	// Removed are the folders of unused versions that were removed.
	Removed []string
	// Kept is why unused versions were not removed; nil if they were. It is not a
	// failure of the installation.
	Kept error
}

const (
	current, previous = "current", "previous"
	versionsFolder    = "versions"
	// newPrefix is the prefix of folders that are not complete, or are being removed.
	newPrefix = ".new-"
	// lockTimeout bounds the wait for another installation of the same name.
	lockTimeout = 2 * time.Minute
	lockPause   = 100 * time.Millisecond
)

var (
	validName    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)
	validVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$`)
)

// Install installs the version and makes it current. It may be called again after any
// failure.
func Install(ctx context.Context, o Options) (Result, error) {
	r, err := install(ctx, o)
	if err != nil {
		return r, fmt.Errorf("install %s: %w", o.Name, err)
	}
	return r, nil
}

func install(ctx context.Context, o Options) (r Result, err error) {
	if !validName.MatchString(o.Name) {
		return r, errors.New("the name must consist of lower-case letters, digits and dashes")
	}
	if o.Version != "" && !validVersion.MatchString(o.Version) {
		return r, fmt.Errorf("version %q: want letters, digits, dots, dashes, underscores and plus signs", o.Version)
	}
	for _, pattern := range o.Ignored {
		if _, err := filepath.Match(pattern, ""); err != nil {
			return r, fmt.Errorf("pattern %q: %w", pattern, err)
		}
	}
	source, err := openSource(o.From, o.Files)
	if err != nil {
		return r, err
	}
	defer source.root.Close()
	p, err := openPlace(ctx, o.HostRoot, o.Name)
	if err != nil {
		return r, err
	}
	defer p.close()
	if p.proc = o.Proc; p.proc == "" {
		p.proc = filepath.Join(o.HostRoot, "proc")
	}
	p.ignored = o.Ignored
	p.inspect = cmp.Or(o.InspectTimeout, time.Minute)
	if r.Version, r.Copied, err = p.add(ctx, source, o.Version); err != nil {
		return r, err
	}
	if r.Switched, err = p.switchTo(r.Version); err != nil {
		return r, err
	}
	r.Removed, r.Kept = p.removeUnused(ctx)
	return r, nil
}

// place is /opt/NAME on the node, locked.
type place struct {
	name string
	// folder is /opt/NAME, and versions is the folder in it.
	folder, versions *os.Root
	// folderFD and versionsFD are the same folders.
	folderFD, versionsFD int
	proc                 string
	// ignored are Options.Ignored.
	ignored []string
	// inspect bounds the look at the processes in proc.
	inspect time.Duration
}

// add makes sure that a complete folder with these files is there, and returns its name.
func (p *place) add(ctx context.Context, source source, version string) (name string, copied bool, err error) {
	if version != "" && p.matches(ctx, source, version) {
		return version, false, nil
	}
	wanted, err := source.read(ctx)
	if err != nil {
		return "", false, fmt.Errorf("read %s: %w", source.root.Name(), err)
	}
	digest := wanted.digest()
	names := []string{version, version + "-" + digest[:12]}
	if version == "" {
		names = []string{"sha256-" + digest[:16]}
	}
	for _, name := range names {
		complete, err := p.holds(ctx, name, digest)
		if err != nil {
			return "", false, err
		}
		if complete {
			return name, false, nil
		}
	}
	// What an interrupted installation left behind may need the room. If it cannot be
	// removed, there may be enough room anyway.
	_, _ = p.removeUnused(ctx)
	made, err := p.copy(ctx, source, wanted)
	if err != nil {
		return "", false, err
	}
	name, err = p.put(made, names)
	if err != nil {
		return "", false, fmt.Errorf("put the new version into place: %w", err)
	}
	return name, true, unix.Fsync(p.versionsFD)
}

// put renames the folder made to the first free name. A folder that has one of the other
// names keeps it, because a process may run what is in it. But the last name contains the
// digest: a folder with that name is damaged, so put swaps it with made.
func (p *place) put(made string, names []string) (string, error) {
	for _, name := range names {
		err := unix.Renameat(p.versionsFD, made, p.versionsFD, name)
		if err == nil {
			return name, nil
		}
		if !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOTDIR) {
			return "", err
		}
	}
	last := names[len(names)-1]
	return last, unix.Renameat2(p.versionsFD, made, p.versionsFD, last, unix.RENAME_EXCHANGE)
}
