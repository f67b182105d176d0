// SPDX-License-Identifier: Apache-2.0

// Package exchange implements host.Exchanges: it manages the folders through which the
// agent and the supervisors in the guests tell each other about the workloads. The
// guest writes to Out, so Out is a small tmpfs of its own: a guest that fills it fills
// nothing else. The package does not interpret what a supervisor reports.
package exchange

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/atomicfile"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/supervise"
	"botbottle.dev/bottle-operator/internal/untrusted"
)

// outOptions limit what a guest can write to its Out. Only root may create files there:
// the guest finds its report file, and can change nothing but that.
const outOptions = "size=4m,nr_inodes=64,mode=0755"

// Options of Exchanges. All are required.
type Options struct {
	// InDir is the folder of the In folders, and ProgramDir a folder on the same file
	// system for the one copy of the guest program that all of them link to.
	InDir, ProgramDir string
	// OutDir is the folder of the Out folders. smolvm mounts no folder below /run.
	OutDir string
	// Program is the guest program, a static executable.
	Program string
}

// Exchanges implements host.Exchanges.
type Exchanges struct {
	options Options
	mu      sync.Mutex // serialises changes
	copied  bool       // ProgramDir has the current program
}

var _ host.Exchanges = (*Exchanges)(nil)

// New returns the Exchanges of this node. It does no I/O.
func New(o Options) *Exchanges { return &Exchanges{options: o} }

var (
	uidPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)
	// outPattern matches the name of an Out: the UID and 128 random bits.
	outPattern = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9-]{0,63})-[0-9a-f]{32}$`)
)

// EnsureExchange implements host.Exchanges.
func (e *Exchanges) EnsureExchange(ctx context.Context, uid, out string) (host.Exchange, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !uidPattern.MatchString(uid) {
		return host.Exchange{}, fmt.Errorf("exchange of %q: not a UID: %w", uid, host.ErrInvalid)
	}
	if out == "" {
		// An earlier call may have made one that nobody recorded.
		if err := e.removeOuts(uid); err != nil {
			return host.Exchange{}, fmt.Errorf("exchange of %s: %w", uid, err)
		}
		var random [16]byte
		_, _ = rand.Read(random[:]) // never fails, according to crypto/rand
		out = filepath.Join(e.options.OutDir, uid+"-"+hex.EncodeToString(random[:]))
	}
	err := e.checkOut(uid, out)
	if err == nil {
		err = e.ensureIn(ctx, uid)
	}
	if err == nil {
		err = e.ensureOut(out)
	}
	if err != nil {
		return host.Exchange{}, fmt.Errorf("exchange of %s: %w", uid, err)
	}
	return host.Exchange{In: e.in(uid), Out: out}, nil
}

// RenewExchange implements host.Exchanges.
func (e *Exchanges) RenewExchange(ctx context.Context, uid, out string, orders supervise.Orders) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err := e.checkOut(uid, out)
	if err == nil {
		err = e.ensureIn(ctx, uid)
	}
	if err == nil {
		err = e.writeOrders(uid, orders)
	}
	if err == nil {
		err = removeOut(out)
	}
	if err == nil {
		err = e.ensureOut(out)
	}
	if err == nil {
		err = createReport(out)
	}
	if err != nil {
		return fmt.Errorf("exchange of %s: %w", uid, err)
	}
	return nil
}

// WriteOrders implements host.Exchanges.
func (e *Exchanges) WriteOrders(_ context.Context, uid string, orders supervise.Orders) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !uidPattern.MatchString(uid) {
		return fmt.Errorf("orders of %q: not a UID: %w", uid, host.ErrInvalid)
	}
	return e.writeOrders(uid, orders)
}

func (e *Exchanges) writeOrders(uid string, orders supervise.Orders) error {
	data, err := json.Marshal(orders)
	if err != nil {
		return fmt.Errorf("orders: %w", err)
	}
	_, err = atomicfile.WriteIfChanged(filepath.Join(e.in(uid), supervise.OrdersFile), append(data, '\n'), 0o644)
	return err
}

// WriteTrust implements host.Exchanges.
func (e *Exchanges) WriteTrust(_ context.Context, uid string, pem []byte) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !uidPattern.MatchString(uid) {
		return "", fmt.Errorf("certificates of %q: not a UID: %w", uid, host.ErrInvalid)
	}
	dir := filepath.Join(e.in(uid), supervise.TrustDir)
	err := e.ensureInDirs(uid)
	if err == nil {
		err = ensureDir(dir, 0o755)
	}
	if err == nil && pem != nil {
		err = writeTrust(dir, pem)
	}
	if err != nil {
		return "", fmt.Errorf("certificates for the guest of %s: %w", uid, err)
	}
	return dir, nil
}

// ReadReport implements host.Exchanges.
func (e *Exchanges) ReadReport(_ context.Context, out string) (supervise.Report, error) {
	data, err := untrusted.ReadFile(out, supervise.ReportFile, supervise.MaxReport)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return supervise.Report{}, fmt.Errorf("report: %w", host.ErrNotFound)
	case errors.Is(err, untrusted.ErrNotRegular), errors.Is(err, untrusted.ErrTooLarge), errors.Is(err, unix.EAGAIN):
		return supervise.Report{}, fmt.Errorf("report: %w: %w", host.ErrInvalid, err)
	case err != nil:
		return supervise.Report{}, fmt.Errorf("report: %w", err)
	}
	if len(data) == 0 {
		return supervise.Report{}, fmt.Errorf("report: %w", host.ErrNotFound)
	}
	r, err := supervise.Parse(data)
	if err != nil {
		return supervise.Report{}, fmt.Errorf("report: %w: %w", host.ErrInvalid, err)
	}
	return r, nil
}

// Mark implements host.Exchanges.
func (e *Exchanges) Mark(out string) host.ReportMark {
	var st unix.Stat_t
	if unix.Fstatat(unix.AT_FDCWD, out+"/"+supervise.ReportFile, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Size == 0 {
		return host.ReportMark{}
	}
	return host.ReportMark{Inode: int64(st.Ino), Size: st.Size, Changed: st.Ctim.Nano()}
}

// MountedProgram returns the path in the guest of the guest program, if the Bottle's In has
// the present release of it; "" if not.
func (e *Exchanges) MountedProgram(uid string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	program, err := e.ensureProgram()
	if err != nil || !uidPattern.MatchString(uid) || !e.hasProgram(uid, program) {
		return ""
	}
	return path.Join(supervise.In, supervise.Program)
}

// RemoveExchange implements host.Exchanges. It finds Out by its name.
func (e *Exchanges) RemoveExchange(_ context.Context, uid string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !uidPattern.MatchString(uid) {
		return fmt.Errorf("exchange of %q: not a UID: %w", uid, host.ErrInvalid)
	}
	err := e.removeOuts(uid)
	if err == nil {
		err = os.RemoveAll(e.in(uid))
	}
	if err != nil {
		return fmt.Errorf("exchange of %s: %w", uid, err)
	}
	return nil
}

// removeOuts removes every Out of the Bottle.
func (e *Exchanges) removeOuts(uid string) error {
	names, err := namesIn(e.options.OutDir)
	for _, name := range names {
		if m := outPattern.FindStringSubmatch(name); m != nil && m[1] == uid {
			err = errors.Join(err, removeOut(filepath.Join(e.options.OutDir, name)))
		}
	}
	return err
}

// Sweep removes the exchanges of all Bottles but these. It is for the start of an
// agent, before it creates any.
func (e *Exchanges) Sweep(ctx context.Context, keep []string) error {
	kept := map[string]bool{}
	for _, uid := range keep {
		kept[uid] = true
	}
	outs, err := namesIn(e.options.OutDir)
	ins, err2 := namesIn(e.options.InDir)
	if err := errors.Join(err, err2); err != nil {
		return err
	}
	uids := map[string]bool{}
	for _, name := range outs {
		if m := outPattern.FindStringSubmatch(name); m != nil {
			uids[m[1]] = true
		}
	}
	for _, name := range ins {
		if uidPattern.MatchString(name) {
			uids[name] = true
		}
	}
	var errs []error
	for uid := range uids {
		if !kept[uid] {
			errs = append(errs, e.RemoveExchange(ctx, uid))
		}
	}
	return errors.Join(errs...)
}

func namesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, err
}

func (e *Exchanges) in(uid string) string { return filepath.Join(e.options.InDir, uid) }

// checkOut refuses an Out that is not one of the Bottle's.
func (e *Exchanges) checkOut(uid, out string) error {
	m := outPattern.FindStringSubmatch(filepath.Base(out))
	if filepath.Dir(out) != e.options.OutDir || m == nil || m[1] != uid || strings.Contains(out, ":") {
		return fmt.Errorf("%s is no folder for reports of this Bottle: %w", out, host.ErrInvalid)
	}
	return nil
}
