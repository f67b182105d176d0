// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/test/require"
)

// smallDisk makes a filesystem of this size that is not mounted in any
// namespace. It is reached through a descriptor, and is gone when that is
// closed.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	require.Root(t)
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		require.Unmet(t, "cannot make a tmpfs: "+err.Error())
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "size", size), unix.FsconfigCreate(fs)); err != nil {
		require.Unmet(t, "cannot make a tmpfs: "+err.Error())
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		require.Unmet(t, "cannot make a tmpfs: "+err.Error())
	}
	t.Cleanup(func() { unix.Close(mount) })
	return fmt.Sprintf("/proc/self/fd/%d", mount)
}

// resizeDisk changes the size of a filesystem that smallDisk made.
func resizeDisk(t *testing.T, dir, size string) {
	t.Helper()
	fs, err := unix.Fspick(unix.AT_FDCWD, dir, unix.FSPICK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "size", size), unix.FsconfigReconfigure(fs)); err != nil {
		t.Fatal(err)
	}
}

func fill(t *testing.T, dir string, n int) (path string) {
	t.Helper()
	path = filepath.Join(dir, "filler")
	if err := os.WriteFile(path, make([]byte, n), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDiskFull(t *testing.T) {
	small := smallDisk(t, "40m")
	w := newWorld(t, func(o *Options) {
		o.Dir = small
		o.Reserve = -1 // only the disk itself is the limit
	})
	img := newImage(t, "amd64", noise(1, 4<<20), noise(2, 4<<20))
	w.reg.push(t, "demo:1", img)
	w.put("a.tar", saved(t, img))
	filler := fill(t, small, 34<<20)
	failed := w.wantFailed(w.request("demo:1", "a"), "disk is full", "automatically")
	if strings.Contains(failed.Error(), w.reg.host()+" answered") {
		t.Errorf("got %q, want nothing about the registry", failed)
	}
	w.wantFailed(local("a.tar"), "disk is full")
	select {
	case <-w.Refused():
	default:
		t.Error("got the collector not woken, want it woken")
	}
	if n := w.archives(); n != 0 {
		t.Errorf("got %d archives, want none", n)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	w.clock.Step(firstBackoff)
	wantImage(t, w.want(w.request("demo:1", "a")).Path, img)
}

func TestDiskReserve(t *testing.T) {
	small := smallDisk(t, "32m")
	w := newWorld(t, func(o *Options) {
		o.Dir = small
		o.Reserve = 16 << 20
	})
	img := newImage(t, "amd64", noise(1, 4<<20))
	w.reg.push(t, "demo:1", img)
	filler := fill(t, small, 14<<20) // 18 MiB are left
	w.reg.resetRequests()
	w.wantFailed(w.request("demo:1", "a"), "disk is full", "--image-reserve-bytes")
	if n := w.reg.count("/blobs/"); n != 1 { // the config
		t.Errorf("got %v, want no request for the layer", w.reg.requests)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	w.clock.Step(firstBackoff)
	wantImage(t, w.want(w.request("demo:1", "a")).Path, img)
}

// The disk fills up while a long layer is written.
func TestDiskReserveDuringPull(t *testing.T) {
	dir := smallDisk(t, "120m")
	w := newWorld(t, func(o *Options) {
		o.Dir = dir
		o.Reserve = 60 << 20
	})
	// The layer is sent in less than a megabyte, and unpacks to more than fits.
	w.reg.push(t, "demo:1", newImage(t, "amd64", strings.Repeat("all work and no play ", 4<<20)))
	w.wantFailed(w.request("demo:1", "a"), "disk is full", "--image-reserve-bytes")
	// The size of the image is not known, but it is more than what was written.
	if got, least := w.short.need, int64(checkEvery); got.least < least || got.likely != 2*got.least {
		t.Errorf("got %+v needed, want at least the %d bytes written, and a likely need of twice that", got, least)
	}
	// The same holds if each layer is small.
	part := strings.Repeat("all work and no play ", 1<<20)
	w.reg.push(t, "demo:2", newImage(t, "amd64", part+"1", part+"2", part+"3", part+"4"))
	w.wantFailed(w.request("demo:2", "a"), "disk is full", "--image-reserve-bytes")
}

// A manifest may claim any size. A sum with the reserve could overflow.
func TestSpaceCheckDoesNotOverflow(t *testing.T) {
	room := &space{dir: t.TempDir(), reserve: 1 << 20}
	for _, bytes := range []int64{math.MaxInt64, math.MaxInt64 - 1<<20 + 1, math.MaxInt64 - 1<<21} {
		if err := room.check(bytes); !isDisk(err) {
			t.Errorf("%d bytes: got %v, want a full disk", bytes, err)
		}
	}
	room.reserve = math.MaxInt64
	if err := room.check(1); !isDisk(err) {
		t.Errorf("all in reserve: got %v, want a full disk", err)
	}
}

// A folder that cannot be written to is reported as a problem of the node, not
// of the registry.
func TestReadOnlyStoreFolder(t *testing.T) {
	var dir string
	w := newWorld(t, func(o *Options) {
		dir = smallDisk(t, "8m")
		o.Dir = filepath.Join(dir, "images")
		if err := os.Mkdir(o.Dir, 0o711); err != nil {
			t.Fatal(err)
		}
	})
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		t.Fatal(err)
	}
	first := w.wantFailed(w.request("demo:1", "a"), "the node's folder of images", "read-only file system").Error()
	w.clock.Step(time.Minute)
	if again := w.wantFailed(w.request("demo:1", "a")).Error(); again != first || strings.Contains(again, w.reg.host()+":") {
		t.Errorf("again: got %q after %q, want the same, without the registry", again, first)
	}
	select {
	case <-w.Refused():
		t.Error("got the collector woken, want it left alone: there is room")
	default:
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
		t.Fatal(err)
	}
	w.clock.Step(time.Minute)
	w.want(w.request("demo:1", "a"))
}
