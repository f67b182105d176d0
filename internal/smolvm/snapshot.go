// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	_ "modernc.org/sqlite" // registers the driver

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/untrusted"
)

// maxDatabase is the most that is read from one file: a machine takes about
// 1 KiB, and SQLite checkpoints the log every 4 MiB.
const maxDatabase = 64 << 20

// errChanging means that the database changed while it was read.
var errChanging = errors.New("smolvm is writing its database")

// snapshot is a private copy of smolvm's database.
type snapshot struct {
	*sql.DB
	dir string
}

// takeSnapshot copies the database at path and its log into a new folder below
// dir, and opens the copy. SQLite itself, even in read-only mode, creates the
// log and its index if nobody has them open, and locks them; smolvm's releases
// before 1.22.0 fail instead of waiting for such a lock. takeSnapshot only
// reads smolvm's files. It reads them twice and accepts the result if both
// reads are equal, because every write changes the log, or the database file
// where there is no log. Otherwise the error is errChanging.
//
// The copy holds every env value in clear text, as the database does. The
// caller closes it.
func takeSnapshot(dir, path string) (*snapshot, error) {
	db, log, err := readConsistent(path)
	if err != nil {
		return nil, err
	}
	to, err := os.MkdirTemp(dir, snapshotPrefix+"*") // only root can enter it
	if err != nil {
		return nil, err
	}
	s := &snapshot{dir: to}
	copied := filepath.Join(to, "db")
	err = os.WriteFile(copied, db, 0o600)
	if err == nil && log != nil {
		err = os.WriteFile(copied+"-wal", log, 0o600)
	}
	if err == nil {
		// The copy need not survive a power cut.
		s.DB, err = sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: copied, RawQuery: "_pragma=synchronous(off)"}).String())
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(to))
	}
	return s, nil
}

// Close removes the copy.
func (s *snapshot) Close() error {
	return errors.Join(s.DB.Close(), os.RemoveAll(s.dir))
}

// readConsistent returns the database and its log as they were at one instant.
// The log is nil if there is none.
func readConsistent(path string) (db, log []byte, err error) {
	type files struct{ log, db []byte }
	var read [2]files
	for i := range read {
		// Each round reads both files in full. If the rounds agree, both files
		// had this content at the instant between the rounds.
		if read[i].log, err = readDatabase(path + "-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		if read[i].db, err = readDatabase(path); err != nil {
			return nil, nil, err
		}
	}
	if !bytes.Equal(read[0].log, read[1].log) || !bytes.Equal(read[0].db, read[1].db) {
		return nil, nil, errChanging
	}
	if _, err := os.Lstat(path + "-journal"); !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errChanging
	}
	if len(read[0].db) == 0 { // created, but not written yet
		return nil, nil, errChanging
	}
	return read[0].db, read[0].log, nil
}

func readDatabase(path string) ([]byte, error) {
	return untrusted.ReadFile(filepath.Dir(path), filepath.Base(path), maxDatabase)
}

// snapshotPrefix is the prefix of the snapshot folders in smolvm's home.
const snapshotPrefix = ".snapshot-"

// removeSnapshots removes the snapshots that a crashed agent left behind.
func (d *Driver) removeSnapshots() error {
	left, err := filepath.Glob(filepath.Join(d.opts.Home, snapshotPrefix+"*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// readRecord returns the machine's record in the database at path.
func readRecord(ctx context.Context, dir, path, name string) (data []byte, err error) {
	s, err := takeSnapshot(dir, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("smolvm has no database: %w", host.ErrNotFound)
	case errors.Is(err, errChanging):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("read smolvm's database: %w: %w", host.ErrUnavailable, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var tables int
	err = s.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'vms'").Scan(&tables)
	if err == nil && tables == 0 {
		err = errors.New("it has no table of machines")
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("smolvm's database: %w: %w", host.ErrUnsupported, err)
	}
	err = s.QueryRowContext(ctx, "SELECT data FROM vms WHERE name = ?", name).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		err = host.ErrNotFound
	}
	return data, err
}
