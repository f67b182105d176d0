// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/bottleca"
)

func newAuthority(t *testing.T) (cert, withKey []byte) {
	t.Helper()
	withKey, err := bottleca.New("company", "ca", time.Now())
	if err == nil {
		cert, err = bottleca.CertificateOnly(withKey)
	}
	if err != nil {
		t.Fatal(err)
	}
	return cert, withKey
}

// TestUpstreamCA: the file is read again, and what is no file of certificates changes
// nothing, or keeps an agent from starting.
func TestUpstreamCA(t *testing.T) {
	if read, err := (&AgentOptions{}).upstreamCA(); err != nil || read() != nil {
		t.Errorf("without the flag: got %v, want nothing", err)
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	o := &AgentOptions{EgressUpstreamCA: path}
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one, withKey := newAuthority(t)
	two, _ := newAuthority(t)
	for name, bad := range map[string][]byte{"empty": nil, "a private key": withKey, "text": []byte("x")} {
		write(bad)
		if _, err := o.upstreamCA(); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	write(one)
	read, err := o.upstreamCA()
	if err != nil || string(read()) != string(one) {
		t.Fatalf("got %v, want the file", err)
	}
	write(two)
	if string(read()) != string(two) {
		t.Error("after a change: got the old content")
	}
	write(withKey)
	if string(read()) != string(two) {
		t.Error("after a change to a file with a key: got something else than what it held before")
	}
}

func TestForbidCoreDumps(t *testing.T) {
	before, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, uintptr(before), 0, 0, 0) }()
	if err := forbidCoreDumps(); err != nil {
		t.Fatal(err)
	}
	if now, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || now != 0 {
		t.Errorf("got %d, %v, want a process that is not dumped", now, err)
	}
}
