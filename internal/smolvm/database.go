// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// readTimeout bounds how long record retries while smolvm writes its database.
const readTimeout = 5 * time.Second

// database is the path of the database in which all known releases keep their
// machines.
func (d *Driver) database() string {
	return filepath.Join(d.opts.Home, ".local/share/smolvm/server/smolvm.db")
}

// record returns the machine's record in smolvm's database, as JSON. The error
// is ErrNotFound if there is no such machine, ErrUnsupported if the database has
// another layout, and ErrUnavailable if it kept changing for readTimeout.
func (d *Driver) record(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for {
		data, err := readRecord(ctx, d.opts.Home, d.database(), name)
		if !errors.Is(err, errChanging) {
			return data, err
		}
		if wait := sleep(ctx, jitter(20*time.Millisecond)); wait != nil {
			return nil, fmt.Errorf("%w: %w: %w", host.ErrUnavailable, err, wait)
		}
	}
}
