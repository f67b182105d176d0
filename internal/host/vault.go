// SPDX-License-Identifier: Apache-2.0

package host

import "context"

// Vault keeps files that only the bundle of a Bottle may read. They are in the node's
// memory: never on a disk, never in swap, and gone after a reboot. All methods refuse a
// UID or a file's name that no Bottle can have, with ErrInvalid. No error contains any
// content.
type Vault interface {
	// EnsureFolder makes the Bottle's folder exist and returns its path, to be mounted
	// into the bundle. It leaves the files as they are.
	EnsureFolder(ctx context.Context, uid string) (string, error)
	// ReadFile returns ErrNotFound when there is no such file.
	ReadFile(ctx context.Context, uid, name string) ([]byte, error)
	// WriteFile replaces the file at once, so that a reader sees either the old or the
	// new content. It returns ErrNotFound when the folder does not exist.
	WriteFile(ctx context.Context, uid, name string, data []byte) error
	// RemoveFile returns nil when there is no such file.
	RemoveFile(ctx context.Context, uid, name string) error
	// RemoveFolder removes the folder with its files. It returns nil when there is none.
	RemoveFolder(ctx context.Context, uid string) error
}
