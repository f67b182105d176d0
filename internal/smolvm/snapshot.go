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

// maxDatabase bounds what is read of one file: a machine takes about 1 KiB,
// the log is folded back every 4 MiB.
const maxDatabase = 64 << 20

// errUnsteady is a database that was being written as it was read.
var errUnsteady = errors.New("smolvm is writing its database")

// snapshot is a private copy of smolvm's database.
type snapshot struct {
	*sql.DB
	dir string
}

// takeSnapshot copies the database at path, and its log, into a new folder
// below dir, and opens the copy. SQLite itself, even told to read only, makes
// the log and its index when nobody else has them open, and takes locks on
// them, which releases before 1.22.0 do not wait for. This only reads smolvm's
// files, and what it read counts if it was twice the same: every write changes
// the log, or the file where there is none. errUnsteady if it was not.
//
// The copy holds every env value in clear, as the database does. The caller
// closes it.
func takeSnapshot(dir, path string) (*snapshot, error) {
	db, log, err := readSteady(path)
	if err != nil {
		return nil, err
	}
	to, err := os.MkdirTemp(dir, snapshotPrefix+"*") // root's alone
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
		// Nobody needs the copy after a power cut.
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

// readSteady returns the database and its log, nil for none, as they were
// together in one instant.
func readSteady(path string) (db, log []byte, err error) {
	type files struct{ log, db []byte }
	var read [2]files
	for i := range read {
		// Each file whole and both twice, so that there was an instant, between
		// the two rounds, when they were so together.
		if read[i].log, err = readDatabase(path + "-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		if read[i].db, err = readDatabase(path); err != nil {
			return nil, nil, err
		}
	}
	if !bytes.Equal(read[0].log, read[1].log) || !bytes.Equal(read[0].db, read[1].db) {
		return nil, nil, errUnsteady
	}
	if _, err := os.Lstat(path + "-journal"); !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errUnsteady
	}
	if len(read[0].db) == 0 { // made, and nothing written yet
		return nil, nil, errUnsteady
	}
	return read[0].db, read[0].log, nil
}

func readDatabase(path string) ([]byte, error) {
	return untrusted.ReadFile(filepath.Dir(path), filepath.Base(path), maxDatabase)
}

// snapshotPrefix begins the names of folders of copies in smolvm's home.
const snapshotPrefix = ".snapshot-"

// removeSnapshots removes the copies that an agent that died left behind.
func (d *Driver) removeSnapshots() error {
	left, err := filepath.Glob(filepath.Join(d.opts.Home, snapshotPrefix+"*"))
	for _, dir := range left {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// readRecord returns what the database at path holds of the machine.
func readRecord(ctx context.Context, dir, path, name string) (data []byte, err error) {
	s, err := takeSnapshot(dir, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("smolvm has no database: %w", host.ErrNotFound)
	case errors.Is(err, errUnsteady):
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
