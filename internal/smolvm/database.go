// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	_ "modernc.org/sqlite" // registers the driver

	"botbottle.dev/bottle-operator/internal/host"
)

// readTimeout bounds how long smolvm's database may be in no state to be read.
const readTimeout = 5 * time.Second

// database is where smolvm keeps every machine, in all known releases.
func (d *Driver) database() string {
	return filepath.Join(d.opts.Home, ".local/share/smolvm/server/smolvm.db")
}

// record is what smolvm's database holds of a machine, as JSON. ErrNotFound
// for no such machine, ErrUnsupported for a database of another kind.
func (d *Driver) record(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for {
		data, err := readRecord(ctx, d.database(), name)
		if !errors.Is(err, errUnsteady) {
			return data, err
		}
		if wait := sleep(ctx, jitter(20*time.Millisecond)); wait != nil {
			return nil, fmt.Errorf("%w: %w: %w", host.ErrUnavailable, err, wait)
		}
	}
}

func readRecord(ctx context.Context, path, name string) ([]byte, error) {
	image, err := snapshot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("smolvm has no database: %w", host.ErrNotFound)
	}
	if errors.Is(err, errUnsteady) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("read smolvm's database: %w: %w", host.ErrUnavailable, err)
	}
	if len(image) == 0 { // made, and nothing written yet
		return nil, errUnsteady
	}
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.Raw(func(c any) error { return c.(interface{ Deserialize(b []byte) error }).Deserialize(image) }); err != nil {
		return nil, fmt.Errorf("smolvm's database: %w: %w", host.ErrUnsupported, err)
	}
	var tables int
	err = conn.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'vms'").Scan(&tables)
	if err == nil && tables == 0 {
		err = errors.New("it has no table of machines")
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("smolvm's database: %w: %w", host.ErrUnsupported, err)
	}
	var data []byte
	err = conn.QueryRowContext(ctx, "SELECT data FROM vms WHERE name = ?", name).Scan(&data)
	if errors.Is(err, sql.ErrNoRows) {
		err = host.ErrNotFound
	}
	return data, err
}
