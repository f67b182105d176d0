// SPDX-License-Identifier: Apache-2.0

// Command relay lets a node that has no route out reach one TCP address of this
// machine. It listens inside the node's network namespace and dials from its own.
//
// usage: relay NETNS-FILE LISTEN-ADDRESS DIAL-ADDRESS
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const dialTimeout = 10 * time.Second

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: relay NETNS-FILE LISTEN-ADDRESS DIAL-ADDRESS")
		os.Exit(2)
	}
	err := run(os.Args[1], os.Args[2], os.Args[3])
	fmt.Fprintln(os.Stderr, "relay:", err)
	os.Exit(1)
}

// run relays connections until the listener fails.
func run(netns, listen, dial string) error {
	l, err := listenIn(netns, listen)
	if err != nil {
		return err
	}
	for {
		near, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer near.Close()
			far, err := net.DialTimeout("tcp", dial, dialTimeout)
			if err != nil {
				fmt.Fprintln(os.Stderr, "relay:", err)
				return
			}
			defer far.Close()
			join(near.(*net.TCPConn), far.(*net.TCPConn))
		}()
	}
}

// listenIn listens inside another network namespace. It enters the namespace
// only to make the socket, which stays there.
func listenIn(netns, address string) (net.Listener, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	other, err := os.Open(netns)
	if err != nil {
		return nil, err
	}
	defer other.Close()
	if err := unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("enter %s: %w", netns, err)
	}
	l, err := net.Listen("tcp", address)
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return nil, fmt.Errorf("return from %s: %w", netns, back)
	}
	return l, err
}

// join copies in both directions until both sides have reached EOF.
func join(a, b *net.TCPConn) {
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(a, b)
		_ = a.CloseWrite()
		close(done)
	}()
	_, _ = io.Copy(b, a)
	_ = b.CloseWrite()
	<-done
}
