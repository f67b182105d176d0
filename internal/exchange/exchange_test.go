// SPDX-License-Identifier: Apache-2.0

package exchange_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/exchange"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
	"botbottle.dev/bottle-operator/internal/supervise"
	"botbottle.dev/bottle-operator/test/require"
)

const uid = "1a2b3c4d-0000-4000-8000-000000000000"

type fixture struct {
	*exchange.Exchanges
	options exchange.Options
}

func open(t *testing.T) *fixture {
	t.Helper()
	require.Root(t)
	dir := t.TempDir()
	f := &fixture{options: exchange.Options{
		InDir: filepath.Join(dir, "state", "in"), ProgramDir: filepath.Join(dir, "state", "guest"),
		OutDir: filepath.Join(dir, "run", "out"), Program: filepath.Join(dir, "bottle-guest"),
	}}
	ok(t, os.WriteFile(f.options.Program, []byte("a program"), 0o600))
	f.Exchanges = exchange.New(f.options)
	t.Cleanup(func() {
		if err := f.Sweep(t.Context(), nil); err != nil {
			t.Error(err)
		}
	})
	return f
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) ensure(t *testing.T) host.Exchange {
	t.Helper()
	x, err := f.EnsureExchange(t.Context(), uid, "")
	ok(t, err)
	return x
}

// report writes a report as the supervisor does.
func report(t *testing.T, _, out string, r supervise.Report) {
	t.Helper()
	data, err := supervise.Record(r)
	ok(t, err)
	f, err := os.OpenFile(filepath.Join(out, supervise.ReportFile), os.O_WRONLY, 0)
	ok(t, err)
	defer f.Close()
	_, err = f.WriteAt(data, 0)
	ok(t, err)
}

func TestContract(t *testing.T) {
	hostcontract.TestExchanges(t, func(t *testing.T) hostcontract.ExchangesFixture {
		f := open(t)
		return hostcontract.ExchangesFixture{Exchanges: f, Report: report, Reboot: func(t *testing.T) {
			outs, err := filepath.Glob(f.options.OutDir + "/*")
			ok(t, err)
			for _, out := range outs {
				ok(t, unix.Unmount(out, unix.MNT_DETACH))
			}
		}}
	})
}

// A VMM runs as a user of its own: it must reach both folders, read In, write to Out,
// and find no other Out.
func TestModes(t *testing.T) {
	f := open(t)
	x := f.ensure(t)
	ok(t, f.RenewExchange(t.Context(), uid, x.Out, supervise.Orders{Start: "a"}))
	for path, want := range map[string]fs.FileMode{
		f.options.InDir: 0o711, x.In: 0o755, filepath.Join(x.In, supervise.Program): 0o755, filepath.Join(x.In, supervise.OrdersFile): 0o644,
		f.options.OutDir: 0o711, x.Out: 0o755, filepath.Join(x.Out, supervise.ReportFile): 0o666,
	} {
		st, err := os.Stat(path)
		ok(t, err)
		if st.Mode().Perm() != want {
			t.Errorf("%s: got mode %o, want %o", path, st.Mode().Perm(), want)
		}
	}
	var mount unix.Statfs_t
	ok(t, unix.Statfs(x.Out, &mount))
	for name, flag := range map[string]int64{"nosuid": unix.ST_NOSUID, "nodev": unix.ST_NODEV, "noexec": unix.ST_NOEXEC} {
		if mount.Flags&flag == 0 {
			t.Errorf("the folder for reports: got it without %s", name)
		}
	}
}

func TestAGuestFillsOnlyItsOwnFolder(t *testing.T) {
	f := open(t)
	out := f.ensure(t).Out
	ok(t, f.RenewExchange(t.Context(), uid, out, supervise.Orders{}))
	err := os.WriteFile(filepath.Join(out, supervise.ReportFile), bytes.Repeat([]byte("x"), 8<<20), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("8 MiB: got %v, want no space", err)
	}
	for n := 0; ; n++ {
		err := os.WriteFile(fmt.Sprintf("%s/%d", out, n), nil, 0o600)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		ok(t, err)
		if n > 100 {
			t.Fatal("files: got more than 100, want a limit")
		}
	}
	ok(t, f.RenewExchange(t.Context(), uid, out, supervise.Orders{}))
	report(t, uid, out, supervise.Report{Start: "s"})
}

func TestReportsOfAHostileGuest(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	ok(t, os.WriteFile(secret, []byte(`{"start":"secret"}`), 0o600))
	for name, plant := range map[string]func(path string) error{
		"a link":     func(p string) error { return os.Symlink(secret, p) },
		"a FIFO":     func(p string) error { return unix.Mkfifo(p, 0o600) },
		"a folder":   func(p string) error { return os.Mkdir(p, 0o700) },
		"too large":  func(p string) error { return os.WriteFile(p, make([]byte, supervise.MaxReport+1), 0o600) },
		"a terabyte": func(p string) error { return errors.Join(os.WriteFile(p, nil, 0o600), os.Truncate(p, 1<<40)) },
		"no JSON":    func(p string) error { return os.WriteFile(p, []byte("exit 0\n"), 0o600) },
		"half a report": func(p string) error {
			data, err := supervise.Record(supervise.Report{Start: "s"})
			return errors.Join(err, os.WriteFile(p, data[:10], 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := open(t)
			out := f.ensure(t).Out
			ok(t, plant(filepath.Join(out, supervise.ReportFile)))
			r, err := f.ReadReport(t.Context(), out)
			if !errors.Is(err, host.ErrInvalid) || r.Start != "" {
				t.Errorf("got %+v, %v, want ErrInvalid", r, err)
			}
		})
	}
}

func TestSweep(t *testing.T) {
	f := open(t)
	kept := f.ensure(t)
	const gone = "9f8e7d6c-0000-4000-8000-000000000000"
	x, err := f.EnsureExchange(t.Context(), gone, "")
	ok(t, err)
	ok(t, f.Sweep(t.Context(), []string{uid}))
	for path, want := range map[string]bool{kept.In: true, kept.Out: true, x.In: false, x.Out: false} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: got %v, want it kept: %v", path, err, want)
		}
	}
}

// All guests run one copy of the program. A new release replaces it at the next start,
// and changes nothing for a guest that runs.
func TestOneCopyOfTheProgram(t *testing.T) {
	f := open(t)
	in := f.ensure(t).In
	running, err := os.Open(filepath.Join(in, supervise.Program))
	ok(t, err)
	defer running.Close()
	ok(t, os.WriteFile(f.options.Program, []byte("a newer program"), 0o600))
	f.Exchanges = exchange.New(f.options)
	x := f.ensure(t)
	got, err := os.ReadFile(filepath.Join(x.In, supervise.Program))
	ok(t, err)
	old := make([]byte, 64)
	n, _ := running.Read(old)
	if string(got) != "a newer program" || string(old[:n]) != "a program" {
		t.Errorf("got %q, and %q in the running guest, want the new and the old one", got, old[:n])
	}
	want, err := os.Stat(filepath.Join(f.options.ProgramDir, supervise.Program))
	ok(t, err)
	if have, err := os.Stat(filepath.Join(x.In, supervise.Program)); err != nil || !os.SameFile(want, have) {
		t.Errorf("program: got another copy, want a link")
	}
}

// The proof runs the mounted program only if it is the agent's own release.
func TestMountedProgram(t *testing.T) {
	f := open(t)
	if got := f.MountedProgram(uid); got != "" {
		t.Errorf("without an exchange: got %q, want none", got)
	}
	f.ensure(t)
	if got, want := f.MountedProgram(uid), "/run/bottle/in/bottle-guest"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	ok(t, os.WriteFile(f.options.Program, []byte("the next release"), 0o600))
	if got := exchange.New(f.options).MountedProgram(uid); got != "" {
		t.Errorf("after an upgrade of the agent: got %q, want none", got)
	}
	if got := f.MountedProgram("../" + uid); got != "" {
		t.Errorf("with a bad UID: got %q, want none", got)
	}
}
