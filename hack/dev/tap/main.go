// SPDX-License-Identifier: Apache-2.0

// Command tap runs a command with a tap device that is in another network namespace.
// The command itself stays in the namespace that tap was started in, and gets the
// device as file descriptor 3. The device disappears when that is closed. tap
// attaches the device to a bridge.
//
// usage: tap NETNS-FILE BRIDGE DEVICE COMMAND…
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// tapFD is the file descriptor of the device in the command.
const tapFD = 3

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: tap NETNS-FILE BRIDGE DEVICE COMMAND…")
		os.Exit(2)
	}
	err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4:])
	fmt.Fprintln(os.Stderr, "tap:", err)
	os.Exit(1)
}

// run returns only if the command cannot be started.
func run(netns, bridge, device string, argv []string) error {
	runtime.LockOSThread() // the namespace is the thread's, and the command inherits it
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	other, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", netns, err)
	}
	if err := unix.Setns(other, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter %s: %w", netns, err)
	}
	fd, err := makeTap(bridge, device)
	if err != nil {
		return err
	}
	if err := unix.Setns(own, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("return from %s: %w", netns, err)
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	// Nothing that the command needs has this number: Go opens its own files with
	// close-on-exec.
	if fd == tapFD {
		_, err = unix.FcntlInt(tapFD, unix.F_SETFD, 0)
	} else {
		err = unix.Dup3(fd, tapFD, 0)
	}
	if err != nil {
		return fmt.Errorf("pass the device on: %w", err)
	}
	return syscall.Exec(path, argv, os.Environ())
}

// makeTap makes a tap device on a bridge of the current namespace.
func makeTap(bridge, device string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(device)
	if err != nil {
		return 0, fmt.Errorf("device %q: %w", device, err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return 0, fmt.Errorf("make %s: %w", device, err)
	}
	out, err := exec.Command("ip", "link", "set", device, "master", bridge, "up").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("attach %s to %s: %w: %s", device, bridge, err, out)
	}
	return fd, nil
}
