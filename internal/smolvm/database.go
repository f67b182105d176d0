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
		data, err := readRecord(ctx, d.opts.Home, d.database(), name)
		if !errors.Is(err, errUnsteady) {
			return data, err
		}
		if wait := sleep(ctx, jitter(20*time.Millisecond)); wait != nil {
			return nil, fmt.Errorf("%w: %w: %w", host.ErrUnavailable, err, wait)
		}
	}
}
