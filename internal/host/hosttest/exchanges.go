// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/supervise"
)

// Exchanges is a fake of host.Exchanges. Its folders exist, because the fake of
// host.Machines requires that, but orders and reports are in memory.
type Exchanges struct {
	Faults *Faults
	dir    string

	mu      sync.Mutex
	made    int
	orders  map[string]supervise.Orders // by UID
	renewed map[string]supervise.Orders // by UID
	reports map[string]supervise.Report // by Out
	marks   map[string]int64            // by Out
}

var _ host.Exchanges = (*Exchanges)(nil)

// NewExchanges returns a fake without exchanges, which makes its folders in dir.
func NewExchanges(f *Faults, dir string) *Exchanges {
	return &Exchanges{Faults: cmp.Or(f, &Faults{}), dir: dir, orders: map[string]supervise.Orders{}, renewed: map[string]supervise.Orders{},
		reports: map[string]supervise.Report{}, marks: map[string]int64{}}
}

func (f *Exchanges) in(uid string) string { return filepath.Join(f.dir, "in", uid) }

func (f *Exchanges) call(ctx context.Context, call string, effect func() error) error {
	return f.Faults.aroundSteps(call, steps{whole: effect}.under(ctx, &f.mu))
}

// EnsureExchange implements host.Exchanges.
func (f *Exchanges) EnsureExchange(ctx context.Context, uid, out string) (x host.Exchange, err error) {
	err = f.call(ctx, "EnsureExchange "+uid, func() error {
		if out == "" {
			if err := f.removeOuts(uid); err != nil {
				return err
			}
			f.made++
			out = filepath.Join(f.dir, "out", fmt.Sprintf("%s-%032x", uid, f.made))
		}
		x = host.Exchange{In: f.in(uid), Out: out}
		return f.ensure(uid, out)
	})
	return zeroOnError(x, err)
}

func (f *Exchanges) ensure(uid, out string) error {
	if !strings.HasPrefix(out, filepath.Join(f.dir, "out", uid)+"-") {
		return fmt.Errorf("exchange of %s: %s: %w", uid, out, host.ErrInvalid)
	}
	for _, dir := range []string{f.in(uid), out} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// RenewExchange implements host.Exchanges.
func (f *Exchanges) RenewExchange(ctx context.Context, uid, out string, orders supervise.Orders) error {
	return f.call(ctx, "RenewExchange "+uid, func() error {
		f.orders[uid], f.renewed[uid] = orders, orders
		delete(f.reports, out)
		f.marks[out]++
		return f.ensure(uid, out)
	})
}

// WriteOrders implements host.Exchanges.
func (f *Exchanges) WriteOrders(ctx context.Context, uid string, orders supervise.Orders) error {
	return f.call(ctx, "WriteOrders "+uid, func() error {
		f.orders[uid] = orders
		return nil
	})
}

// WriteTrust implements host.Exchanges.
func (f *Exchanges) WriteTrust(ctx context.Context, uid string, pem []byte) (dir string, err error) {
	err = f.call(ctx, "WriteTrust "+uid, func() error {
		dir = filepath.Join(f.in(uid), supervise.TrustDir)
		if err := os.MkdirAll(dir, 0o755); err != nil || pem == nil {
			return err
		}
		return errors.Join(os.WriteFile(filepath.Join(dir, supervise.StoreFile), []byte("a store"), 0o644),
			os.WriteFile(filepath.Join(dir, supervise.PEMFile), pem, 0o644))
	})
	return zeroOnError(dir, err)
}

// ReadReport implements host.Exchanges.
func (f *Exchanges) ReadReport(ctx context.Context, out string) (r supervise.Report, err error) {
	err = f.call(ctx, "ReadReport "+filepath.Base(out), func() error {
		var ok bool
		if r, ok = f.reports[out]; !ok {
			return fmt.Errorf("report: %w", host.ErrNotFound)
		}
		return nil
	})
	return zeroOnError(r, err)
}

// Mark implements host.Exchanges.
func (f *Exchanges) Mark(out string) host.ReportMark {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.reports[out]; !ok {
		return host.ReportMark{}
	}
	return host.ReportMark{Inode: 1, Changed: f.marks[out]}
}

// RemoveExchange implements host.Exchanges.
func (f *Exchanges) RemoveExchange(ctx context.Context, uid string) error {
	return f.call(ctx, "RemoveExchange "+uid, func() error {
		delete(f.orders, uid)
		if err := f.removeOuts(uid); err != nil {
			return err
		}
		return os.RemoveAll(f.in(uid))
	})
}

func (f *Exchanges) removeOuts(uid string) error {
	outs, err := filepath.Glob(filepath.Join(f.dir, "out", uid+"-*"))
	for _, out := range outs {
		delete(f.reports, out)
		err = errors.Join(err, os.RemoveAll(out))
	}
	return err
}

// Orders returns the current orders of a Bottle; zero for none.
func (f *Exchanges) Orders(uid string) supervise.Orders {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.orders[uid]
}

// Renewed returns the orders at the last start of a Bottle's machine; zero for none.
func (f *Exchanges) Renewed(uid string) supervise.Orders {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.renewed[uid]
}

// Put makes a Bottle's supervisor report r. It reports for the current start if r names
// none.
func (f *Exchanges) Put(uid string, r supervise.Report) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.Start = cmp.Or(r.Start, f.orders[uid].Start)
	outs, _ := filepath.Glob(filepath.Join(f.dir, "out", uid+"-*"))
	for _, out := range outs {
		f.reports[out] = r
		f.marks[out]++
	}
}

// Left returns the UIDs and names of the exchanges that exist.
func (f *Exchanges) Left() (names []string) {
	for _, dir := range []string{"in", "out"} {
		entries, _ := os.ReadDir(filepath.Join(f.dir, dir))
		for _, e := range entries {
			names = append(names, dir+"/"+e.Name())
		}
	}
	return names
}

// Reboot removes every Out, as a reboot does.
func (f *Exchanges) Reboot() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.reports)
	_ = os.RemoveAll(filepath.Join(f.dir, "out"))
}
