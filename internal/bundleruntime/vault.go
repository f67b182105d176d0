// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"errors"

	"botbottle.dev/bottle-operator/internal/host"
)

// Vault implements host.Vault for the Bottles of both runtimes.
type Vault struct {
	choices     *Choices
	docker, pod host.Vault
}

var _ host.Vault = (*Vault)(nil)

// NewVault returns the router.
func NewVault(choices *Choices, docker, pod host.Vault) *Vault { return &Vault{choices, docker, pod} }

// of returns the vault of the Bottle's runtime, or docker's if none was chosen: such a Bottle
// has nothing in either, and docker's needs no Pod.
func (v *Vault) of(uid string) (host.Vault, error) {
	kind, err := v.choices.Of(uid)
	if kind == Pod {
		return v.pod, err
	}
	return v.docker, err
}

// EnsureFolder implements host.Vault.
func (v *Vault) EnsureFolder(ctx context.Context, uid string) (string, error) {
	one, err := v.of(uid)
	if err != nil {
		return "", err
	}
	return one.EnsureFolder(ctx, uid)
}

// ReadFile implements host.Vault.
func (v *Vault) ReadFile(ctx context.Context, uid, name string) ([]byte, error) {
	one, err := v.of(uid)
	if err != nil {
		return nil, err
	}
	return one.ReadFile(ctx, uid, name)
}

// WriteFile implements host.Vault.
func (v *Vault) WriteFile(ctx context.Context, uid, name string, data []byte) error {
	one, err := v.of(uid)
	if err != nil {
		return err
	}
	return one.WriteFile(ctx, uid, name, data)
}

// RemoveFile implements host.Vault.
func (v *Vault) RemoveFile(ctx context.Context, uid, name string) error {
	one, err := v.of(uid)
	if err != nil {
		return err
	}
	return one.RemoveFile(ctx, uid, name)
}

// RemoveFolder implements host.Vault. It removes what is in either runtime, because it
// asks neither.
func (v *Vault) RemoveFolder(ctx context.Context, uid string) error {
	return errors.Join(v.docker.RemoveFolder(ctx, uid), v.pod.RemoveFolder(ctx, uid))
}
