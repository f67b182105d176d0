// SPDX-License-Identifier: Apache-2.0

// Package broker gives the bundle of a Bottle what it needs to open connections: the
// authority of the Bottle, and the values of its Secrets. It also gives the guest what it
// needs to trust the authority. It decides nothing about requests, and writes neither
// rules nor a status.
//
// Nothing that it does waits for dockerd, smolvm or an image. It acts on the newest known
// Bottle, so that a pass over an older one cannot bring back what was taken away.
package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bottleca"
	"botbottle.dev/bottle-operator/internal/brokerfile"
	"botbottle.dev/bottle-operator/internal/cabundle"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/keyed"
)

// Options of a Broker. All are required.
type Options struct {
	// Bottles reads this node's Bottles from a cache.
	Bottles client.Reader
	// References knows the Secrets that Bottles name.
	References interface {
		envsource.Reader
		envsource.Peeker
	}
	Vault     host.Vault
	Exchanges host.Exchanges
	Clock     clock.PassiveClock
}

// Broker serves the bundles of one node. Its methods may be called concurrently.
type Broker struct {
	Options
	// locks, by UID, order the changes to a Bottle's files in the vault, which are in memory.
	locks keyed.Locks
	// trusts, by UID, order what the guest is told to trust, which is on the disk. They are
	// taken before locks.
	trusts keyed.Locks

	mu  sync.Mutex
	got map[string]map[credential]version // by UID
}

// New returns a Broker. It does no I/O.
func New(o Options) *Broker {
	return &Broker{Options: o, got: map[string]map[credential]version{}}
}

// Ensure makes the bundle of a Bottle have its files, and the guest trust the authority.
// It returns the folder to mount into the bundle. A Bottle without rules gets an empty
// folder, so that its first rule needs no other container.
func (r *Broker) Ensure(ctx context.Context, b *v1alpha1.Bottle) (folder string, err error) {
	r.await(ctx, b)
	defer r.trusts.Lock(string(b.UID))()
	folder, cert, err := r.ensureFiles(ctx, b)
	if err == nil && cert != nil {
		err = r.trust(ctx, b, cert)
	}
	return folder, err
}

// ensureFiles does the part of Ensure that concerns the bundle. It returns the certificate of
// the Bottle's authority, nil if there is none.
func (r *Broker) ensureFiles(ctx context.Context, b *v1alpha1.Bottle) (folder string, cert []byte, err error) {
	defer r.locks.Lock(string(b.UID))()
	if folder, err = r.Vault.EnsureFolder(ctx, string(b.UID)); err != nil {
		return "", nil, err
	}
	b, err = r.newest(ctx, b)
	if err == nil {
		err = r.update(ctx, b)
	}
	if err == nil && len(desired.OpenRules(b)) > 0 {
		cert, err = r.ensureAuthority(ctx, b)
	}
	return folder, cert, err
}

// Update gives the bundle of a Bottle the present values of its Secrets, and takes away
// those that it should not have any more. It does nothing if the Bottle has no folder:
// its bundle does not run yet, or not any more. It does not wait for the disk.
func (r *Broker) Update(ctx context.Context, b *v1alpha1.Bottle) error {
	unlock := r.locks.Lock(string(b.UID))
	defer unlock()
	b, err := r.newest(ctx, b)
	if err != nil {
		return err
	}
	if err := r.update(ctx, b); !errors.Is(err, host.ErrNotFound) {
		return err
	}
	return nil
}

// Renew gives a Bottle another authority. It is for each start of its machine: no process
// of the guest trusts the earlier one then.
func (r *Broker) Renew(ctx context.Context, b *v1alpha1.Bottle) error {
	if len(desired.OpenRules(b)) == 0 {
		return nil
	}
	defer r.trusts.Lock(string(b.UID))()
	cert, err := r.renewAuthority(ctx, b)
	if err != nil {
		return err
	}
	return r.trust(ctx, b, cert)
}

func (r *Broker) renewAuthority(ctx context.Context, b *v1alpha1.Bottle) (cert []byte, err error) {
	defer r.locks.Lock(string(b.UID))()
	file, err := r.newAuthority(ctx, b)
	if err != nil {
		return nil, err
	}
	return bottleca.CertificateOnly(file)
}

// Close removes what the bundle of a Bottle has. It is for when the bundle is down.
func (r *Broker) Close(ctx context.Context, uid string) error {
	unlock := r.locks.Lock(uid)
	defer unlock()
	r.forget(uid)
	return r.Vault.RemoveFolder(ctx, uid)
}

// newest returns the Bottle as it is known now, or b if it is gone.
func (r *Broker) newest(ctx context.Context, b *v1alpha1.Bottle) (*v1alpha1.Bottle, error) {
	now := &v1alpha1.Bottle{}
	err := r.Bottles.Get(ctx, client.ObjectKeyFromObject(b), now)
	switch {
	case client.IgnoreNotFound(err) != nil:
		return nil, fmt.Errorf("read bottle %s/%s: %w", b.Namespace, b.Name, err)
	case err != nil || now.UID != b.UID || now.Generation < b.Generation:
		return b, nil
	}
	return now, nil
}

// update writes the values, or removes all files of a Bottle without rules. It returns
// ErrNotFound if the Bottle has no folder. The caller holds the lock.
func (r *Broker) update(ctx context.Context, b *v1alpha1.Bottle) error {
	uid := string(b.UID)
	if len(desired.OpenRules(b)) == 0 {
		r.forget(uid)
		return errors.Join(r.Vault.RemoveFile(ctx, uid, brokerfile.SecretsFile), r.Vault.RemoveFile(ctx, uid, brokerfile.CAFile))
	}
	had, err := r.secrets(ctx, uid)
	if err != nil {
		return err
	}
	data, err := brokerfile.Encode(r.valuesOf(b, had))
	if err != nil {
		return err
	}
	if err := r.Vault.WriteFile(ctx, uid, brokerfile.SecretsFile, data); err != nil {
		return err
	}
	return r.note(ctx, uid, had)
}

// ensureAuthority makes the Bottle have an authority that is valid, and returns its
// certificate. The caller holds the lock.
func (r *Broker) ensureAuthority(ctx context.Context, b *v1alpha1.Bottle) (cert []byte, err error) {
	file, err := r.Vault.ReadFile(ctx, string(b.UID), brokerfile.CAFile)
	if err != nil && !errors.Is(err, host.ErrNotFound) {
		return nil, err
	}
	if ca, perr := bottleca.Parse(file); err != nil || perr != nil || !r.Clock.Now().Before(ca.Certificate.NotAfter) {
		if file, err = r.newAuthority(ctx, b); err != nil {
			return nil, err
		}
	}
	return bottleca.CertificateOnly(file)
}

// trust makes the guest trust the Bottle's authority. The caller holds only the Bottle's lock
// in trusts.
func (r *Broker) trust(ctx context.Context, b *v1alpha1.Bottle, cert []byte) error {
	_, err := r.Exchanges.WriteTrust(ctx, string(b.UID), cabundle.WithPublicRoots(cert))
	return err
}

// newAuthority replaces the Bottle's authority and returns its file. The caller holds the
// lock.
func (r *Broker) newAuthority(ctx context.Context, b *v1alpha1.Bottle) ([]byte, error) {
	file, err := bottleca.New(b.Namespace, b.Name, r.Clock.Now())
	if err != nil {
		return nil, err
	}
	return file, r.Vault.WriteFile(ctx, string(b.UID), brokerfile.CAFile, file)
}

// version is a version of a credential, and since when the bundle has it.
type version struct {
	resourceVersion string
	since           time.Time
}
