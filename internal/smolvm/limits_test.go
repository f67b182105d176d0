// SPDX-License-Identifier: Apache-2.0

package smolvm

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestCheckImageLimit(t *testing.T) {
	for _, tt := range []struct {
		version version
		size    int64
		ok      bool
	}{
		{version{1, 1, 3}, 8 << 30, true},
		{version{1, 3, 9}, 8<<30 + 1, false},
		{version{1, 4, 0}, 8<<30 + 1, true},
		{version{1, 32, 2}, 100 << 30, true},
	} {
		err := capabilitiesOf(tt.version).checkImageLimit(tt.size)
		if tt.ok != (err == nil) || err != nil && !errors.Is(err, host.ErrUnsupported) {
			t.Errorf("%s, %d bytes: got %v, want accepted: %v", tt.version, tt.size, err, tt.ok)
		}
	}
}

func TestCreateTimeoutGrowsWithTheArchive(t *testing.T) {
	for size, want := range map[int64]int{0: 1, 1: 1, 8 << 30: 1, 8<<30 + 1: 2, 16 << 30: 2, 64 << 30: 8} {
		if got := createTimeoutOf(size); got != createTimeout*time.Duration(want) {
			t.Errorf("%d bytes: got %s, want %d times %s", size, got, want, createTimeout)
		}
	}
}

func TestImageLimitIsPassedOn(t *testing.T) {
	for size, want := range map[int64]string{0: "", 1 << 20: "", 8 << 30: "", 16 << 30: "SMOLVM_MAX_IMAGE_BYTES=17179869184"} {
		env := New(Options{Dir: "/nonexistent", Home: "/nonexistent", MaxImageBytes: size}).environment()
		i := slices.IndexFunc(env, func(kv string) bool { return strings.HasPrefix(kv, imageLimitVariable) })
		if got := i >= 0; got != (want != "") || got && env[i] != want {
			t.Errorf("limit of %d bytes: got %q, want %q", size, env, want)
		}
	}
}

func TestUnpackLimit(t *testing.T) {
	home := t.TempDir()
	for what, tt := range map[string]struct {
		size, max, reserve int64
		want               unpackLimit // bytes 0 means that the number does not matter
		help               string
		kind               error
	}{
		"tiny":            {34 << 10, 8 << 30, 0, unpackLimit{bytes: 256 << 20, ratio: true}, "files of zeros", host.ErrInvalid},
		"small":           {10 << 20, 8 << 30, 0, unpackLimit{bytes: 1000 << 20, ratio: true}, "files of zeros", host.ErrInvalid},
		"a low flag":      {10 << 20, 2 << 20, 0, unpackLimit{bytes: 2 << 20}, "--image-max-bytes", host.ErrInvalid},
		"no room on disk": {10 << 20, 8 << 30, 1 << 62, unpackLimit{bytes: 1, disk: true}, "make room on the node", host.ErrUnavailable},
	} {
		d := New(Options{Dir: "/nonexistent", Home: home, MaxImageBytes: tt.max, DiskReserve: tt.reserve})
		got, err := d.unpackLimit(tt.size)
		if err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", what, got, err, tt.want)
		}
		c := call{what: "create machine m"}
		err = got.explain(c.failure("agent operation failed: extract sidecar (shared): tar archive exceeds max total size (16777216 bytes)"))
		if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.help) {
			t.Errorf("%s: got %v, want %v with %q", what, err, tt.kind, tt.help)
		}
	}
	other := errors.New("something else")
	if got := (unpackLimit{}).explain(other); got != other {
		t.Errorf("another error: got %v, want it unchanged", got)
	}
}

// All artifacts that are unpacked at a time, each packed and unpacked, leave the
// reserve free.
func TestUnpackLimitOfSeveral(t *testing.T) {
	home := t.TempDir()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(home, &fs); err != nil {
		t.Fatal(err)
	}
	free := int64(fs.Bavail) * fs.Bsize
	got, err := New(Options{Dir: "/nonexistent", Home: home, MaxImageBytes: 1 << 60, DiskReserve: free / 2}).unpackLimit(1 << 50)
	// Others may write to the disk meanwhile, or remove files.
	if err != nil || !got.disk || got.bytes*2*maxSlowCreates > free*3/4 {
		t.Errorf("got %+v, %v, want a limit of which %d fit into %d bytes", got, err, 2*maxSlowCreates, free/2)
	}
}

// TestUnpackErrors has the texts of 1.7.7, 1.9.1 and 1.32.2.
func TestUnpackErrors(t *testing.T) {
	for _, text := range []string{
		"agent operation failed: extract sidecar: tar archive exceeds max total size (16777216 bytes)",
		"agent operation failed: extract sidecar (shared): tar archive exceeds max entry count (1000)",
		"agent operation failed: extract sidecar (shared): extracting /home/.cache/smolvm/vms/_shared/1392e462/layers/003.tar into /home/x failed, nothing was kept: tar archive exceeds max entry count (1000)",
	} {
		if err := (call{what: "create"}).failure(text); !errors.Is(err, errUnpacksTooLarge) || !errors.Is(err, host.ErrInvalid) {
			t.Errorf("%s: got %v, want that it unpacks to too much", text, err)
		}
	}
}

func TestSizeText(t *testing.T) {
	for n, want := range map[int64]string{0: "0 bytes", 1023: "1023 bytes", 1 << 10: "1 KiB", 3 << 29: "1.5 GiB", 10 << 30: "10 GiB", 1<<20 - 1: "1023.9 KiB"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
