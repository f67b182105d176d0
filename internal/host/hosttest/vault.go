// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"regexp"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
)

// Vault is a fake of host.Vault. Its files are in memory only.
type Vault struct {
	Faults *Faults

	mu      sync.Mutex
	folders map[string]map[string][]byte // by UID and name
}

var _ host.Vault = (*Vault)(nil)

var vaultName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$`)

// NewVault returns an empty fake.
func NewVault(f *Faults) *Vault {
	return &Vault{Faults: cmp.Or(f, &Faults{}), folders: map[string]map[string][]byte{}}
}

func (v *Vault) call(ctx context.Context, call string, names []string, effect func() error) error {
	for _, name := range names {
		if !vaultName.MatchString(name) {
			return fmt.Errorf("vault: %q: %w", name, host.ErrInvalid)
		}
	}
	return v.Faults.aroundSteps(call, steps{whole: effect}.under(ctx, &v.mu))
}

// EnsureFolder implements host.Vault.
func (v *Vault) EnsureFolder(ctx context.Context, uid string) (string, error) {
	err := v.call(ctx, "EnsureFolder "+uid, []string{uid}, func() error {
		if v.folders[uid] == nil {
			v.folders[uid] = map[string][]byte{}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return "/vault/" + uid + "/bundle", nil
}

// ReadFile implements host.Vault.
func (v *Vault) ReadFile(ctx context.Context, uid, name string) (data []byte, err error) {
	err = v.call(ctx, "ReadVaultFile "+uid, []string{uid, name}, func() error {
		have, ok := v.folders[uid][name]
		if !ok {
			return fmt.Errorf("vault of %s: %s: %w", uid, name, host.ErrNotFound)
		}
		data = bytes.Clone(have)
		return nil
	})
	return zeroOnError(data, err)
}

// WriteFile implements host.Vault.
func (v *Vault) WriteFile(ctx context.Context, uid, name string, data []byte) error {
	return v.call(ctx, "WriteVaultFile "+uid, []string{uid, name}, func() error {
		if v.folders[uid] == nil {
			return fmt.Errorf("vault of %s: %w", uid, host.ErrNotFound)
		}
		v.folders[uid][name] = bytes.Clone(data)
		return nil
	})
}

// RemoveFile implements host.Vault.
func (v *Vault) RemoveFile(ctx context.Context, uid, name string) error {
	return v.call(ctx, "RemoveVaultFile "+uid, []string{uid, name}, func() error {
		delete(v.folders[uid], name)
		return nil
	})
}

// RemoveFolder implements host.Vault.
func (v *Vault) RemoveFolder(ctx context.Context, uid string) error {
	return v.call(ctx, "RemoveFolder "+uid, []string{uid}, func() error {
		delete(v.folders, uid)
		return nil
	})
}

// Reboot empties the vault, as a reboot does.
func (v *Vault) Reboot() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.folders)
}

// Left returns the UIDs that have a folder.
func (v *Vault) Left() (uids []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for uid := range v.folders {
		uids = append(uids, uid)
	}
	return uids
}

// File returns a file; nil for none.
func (v *Vault) File(uid, name string) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return bytes.Clone(v.folders[uid][name])
}
