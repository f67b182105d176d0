// SPDX-License-Identifier: Apache-2.0

package hostcontract

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"botbottle.dev/bottle-operator/internal/bottleca"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/supervise"
)

// ExchangesFixture is a node for TestExchanges.
type ExchangesFixture struct {
	Exchanges host.Exchanges
	// Report makes the guest report r in out.
	Report func(t *testing.T, uid, out string, r supervise.Report)
	// Reboot does what a reboot does to the folders.
	Reboot func(t *testing.T)
}

// TestExchanges checks the contract of host.Exchanges.
func TestExchanges(t *testing.T, open func(t *testing.T) ExchangesFixture) {
	const uid = "1a2b3c4d-0000-4000-8000-000000000000"
	exitCode := int32(42)
	report := supervise.Report{Start: "s1", StartTime: time.Unix(1000, 0).UTC(), ExitCode: &exitCode, Final: true}
	orders := supervise.Orders{Start: "s1", Workload: supervise.Run, RestartPolicy: "Never"}
	renew := func(t *testing.T, f ExchangesFixture, out string) {
		t.Helper()
		if err := f.Exchanges.RenewExchange(t.Context(), uid, out, orders); err != nil {
			t.Fatal(err)
		}
	}
	ensure := func(t *testing.T, f ExchangesFixture, out string) host.Exchange {
		t.Helper()
		x, err := f.Exchanges.EnsureExchange(t.Context(), uid, out)
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{x.In, x.Out} {
			if st, err := os.Stat(dir); err != nil || !st.IsDir() || !filepath.IsAbs(dir) {
				t.Errorf("%s: got %v, want a folder", dir, err)
			}
		}
		return x
	}
	t.Run("ensure is repeatable", func(t *testing.T) {
		f := open(t)
		first := ensure(t, f, "")
		if again := ensure(t, f, first.Out); again != first {
			t.Errorf("again: got %+v, want %+v", again, first)
		}
		other := ensure(t, f, "")
		if other.Out == first.Out {
			t.Errorf("another: got the same folder for reports, want a new one")
		}
		if _, err := os.Stat(first.Out); err == nil {
			t.Errorf("the first: got it left, want it replaced")
		}
	})
	t.Run("reports", func(t *testing.T) {
		f := open(t)
		x := ensure(t, f, "")
		renew(t, f, x.Out)
		if _, err := f.Exchanges.ReadReport(t.Context(), x.Out); !errors.Is(err, host.ErrNotFound) {
			t.Errorf("no report: got %v, want ErrNotFound", err)
		}
		if got := f.Exchanges.Mark(x.Out); got != (host.ReportMark{}) {
			t.Errorf("mark without a report: got %+v, want none", got)
		}
		f.Report(t, uid, x.Out, report)
		got, err := f.Exchanges.ReadReport(t.Context(), x.Out)
		if d := cmp.Diff(report, got); err != nil || d != "" {
			t.Errorf("report: got %v (-want +got):\n%s", err, d)
		}
		mark := f.Exchanges.Mark(x.Out)
		if mark == (host.ReportMark{}) || f.Exchanges.Mark(x.Out) != mark {
			t.Errorf("mark: got %+v, want one that does not change by itself", mark)
		}
		// Two changes within the resolution of the kernel's time have one mark.
		for tries := 0; f.Exchanges.Mark(x.Out) == mark; tries++ {
			if f.Report(t, uid, x.Out, report); tries == 1_000_000 {
				t.Fatal("mark after new reports: got the same")
			}
		}
		renew(t, f, x.Out)
		if _, err := f.Exchanges.ReadReport(t.Context(), x.Out); !errors.Is(err, host.ErrNotFound) {
			t.Errorf("after a renewal: got %v, want ErrNotFound", err)
		}
		if err := f.Exchanges.WriteOrders(t.Context(), uid, orders); err != nil {
			t.Errorf("orders: got %v, want success", err)
		}
	})
	t.Run("reboot", func(t *testing.T) {
		f := open(t)
		x := ensure(t, f, "")
		f.Reboot(t)
		renew(t, f, x.Out)
		if again := ensure(t, f, x.Out); again != x {
			t.Errorf("got %+v, want %+v", again, x)
		}
	})
	t.Run("trust", func(t *testing.T) {
		f := open(t)
		write := func(pem []byte) string {
			t.Helper()
			dir, err := f.Exchanges.WriteTrust(t.Context(), uid, pem)
			if err != nil {
				t.Fatal(err)
			}
			return dir
		}
		want := func(dir string, pem []byte) {
			t.Helper()
			if got, err := os.ReadFile(filepath.Join(dir, supervise.PEMFile)); err != nil || string(got) != string(pem) {
				t.Errorf("got %q, %v, want %q", got, err, pem)
			}
			if store, err := os.ReadFile(filepath.Join(dir, supervise.StoreFile)); err != nil || len(store) == 0 {
				t.Errorf("store: got %d bytes, %v", len(store), err)
			}
		}
		one, two := newAuthority(t), newAuthority(t)
		dir := write(nil)
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			t.Errorf("got %v, want a folder", err)
		}
		for _, pem := range [][]byte{one, one, nil} {
			write(pem)
			want(dir, one)
		}
		write(two)
		want(dir, two)
		x := ensure(t, f, "")
		if got := filepath.Join(x.In, supervise.TrustDir); got != dir {
			t.Errorf("got folder %s, want it in In: %s", dir, got)
		}
		renew(t, f, x.Out)
		want(dir, two)
	})
	t.Run("remove", func(t *testing.T) {
		f := open(t)
		x := ensure(t, f, "")
		for range 2 {
			if err := f.Exchanges.RemoveExchange(t.Context(), uid); err != nil {
				t.Fatal(err)
			}
		}
		for _, dir := range []string{x.In, x.Out} {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s: got it left, want it removed", dir)
			}
		}
	})
	t.Run("another Bottle's folder", func(t *testing.T) {
		f := open(t)
		x := ensure(t, f, "")
		const other = "9f8e7d6c-0000-4000-8000-000000000000"
		if _, err := f.Exchanges.EnsureExchange(t.Context(), other, x.Out); !errors.Is(err, host.ErrInvalid) {
			t.Errorf("got %v, want ErrInvalid", err)
		}
	})
}

// newAuthority returns the certificate of a new authority.
func newAuthority(t *testing.T) []byte {
	t.Helper()
	ca, err := bottleca.New("default", "demo", time.Now())
	if err == nil {
		ca, err = bottleca.CertificateOnly(ca)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ca
}
