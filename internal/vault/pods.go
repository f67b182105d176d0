// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// Pods implements host.Vault for Bottles whose bundle is a container of a Pod. Their
// folders are volumes of the Pods, in memory. The kubelet makes and removes the folders;
// Pods only writes files.
type Pods struct {
	// Dir returns the folder of a Bottle, whether it exists or not. It returns ErrNotFound
	// when the Bottle has no Pod. It must not wait.
	Dir func(uid string) (string, error)
}

// forPod lets every user of the Pod's only container read a file, because a cluster may
// choose its user. On the node, only root can enter the folders of Pods.
var forPod = access{owner: 0, mode: 0o444}

var _ host.Vault = Pods{}

// EnsureFolder implements host.Vault. It returns ErrNotFound while there is no folder,
// because only the kubelet makes one.
func (p Pods) EnsureFolder(_ context.Context, uid string) (string, error) {
	dir, err := p.Dir(uid)
	if err != nil {
		return "", err
	}
	return dir, wrap(uid, "folder", inFolder(dir, func(int) error { return removeTemporary(dir) }))
}

// ReadFile implements host.Vault.
func (p Pods) ReadFile(_ context.Context, uid, name string) (data []byte, err error) {
	err = p.within(uid, name, func(dir int) (err error) {
		data, err = readAt(dir, name)
		return err
	})
	return data, err
}

// WriteFile implements host.Vault.
func (p Pods) WriteFile(_ context.Context, uid, name string, data []byte) error {
	if len(data) > MaxFile {
		return fmt.Errorf("vault of %s: %s has more than the limit of %d bytes: %w", uid, name, MaxFile, host.ErrInvalid)
	}
	return p.within(uid, name, func(dir int) error { return replaceAt(dir, name, data, forPod) })
}

// RemoveFile implements host.Vault.
func (p Pods) RemoveFile(_ context.Context, uid, name string) error {
	err := p.within(uid, name, func(dir int) error { return unix.Unlinkat(dir, name, 0) })
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	return err
}

// RemoveFolder implements host.Vault. It removes the files: the folder is the kubelet's.
func (p Pods) RemoveFolder(_ context.Context, uid string) error {
	dir, err := p.Dir(uid)
	if err == nil {
		err = wrap(uid, "folder", inFolder(dir, func(int) error {
			entries, err := os.ReadDir(dir)
			for _, e := range entries {
				err = errors.Join(err, os.RemoveAll(dir+"/"+e.Name()))
			}
			return err
		}))
	}
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	return err
}

func (p Pods) within(uid, name string, do func(dir int) error) error {
	if !uidPattern.MatchString(uid) || !namePattern.MatchString(name) {
		return fmt.Errorf("vault: %q of %q: not a UID with a name of a file: %w", name, uid, host.ErrInvalid)
	}
	dir, err := p.Dir(uid)
	if err != nil {
		return err
	}
	return wrap(uid, name, inFolder(dir, do))
}
