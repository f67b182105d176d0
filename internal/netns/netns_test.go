// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

const own = "/proc/self/ns/net"

func TestIdentify(t *testing.T) {
	id, err := Identify(own)
	var st unix.Stat_t
	if serr := unix.Stat(own, &st); serr != nil || err != nil || id != (host.NetNS{Dev: st.Dev, Inode: st.Ino}) {
		t.Errorf("own namespace: got %v, %v, want device %d and inode %d (%v)", id, err, st.Dev, st.Ino, serr)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), unix.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/nowhere", "/proc/0/ns/net", empty, empty + "/below", fifo, "/"} {
		if id, err := Identify(path); !errors.Is(err, ErrGone) || id != (host.NetNS{}) {
			t.Errorf("%s: got %v, %v, want ErrGone", path, id, err)
		}
	}
}

func TestDo(t *testing.T) {
	id, err := Identify(own)
	if err != nil {
		t.Fatal(err)
	}
	ran := func(path string, want host.NetNS) (bool, error) {
		ran := false
		err := Do(path, want, func() error { ran = true; return nil })
		return ran, err
	}
	other := id
	other.Inode++
	for name, tt := range map[string]struct {
		path string
		want host.NetNS
	}{"another namespace": {own, other}, "none": {"/nowhere", id}, "zero": {own, host.NetNS{}}} {
		if ran, err := ran(tt.path, tt.want); ran || !errors.Is(err, ErrGone) {
			t.Errorf("%s: got %v, %v, want ErrGone and no call", name, ran, err)
		}
	}
}
