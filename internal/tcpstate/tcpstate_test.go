// SPDX-License-Identifier: Apache-2.0

package tcpstate

import (
	"crypto/tls"
	"net"
	"testing"
	"time"
)

// pair returns both ends of a connection.
func pair(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if theirs, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func TestWatch(t *testing.T) {
	for name, end := range map[string]func(ours, theirs net.Conn){
		"the other side ends":  func(_, theirs net.Conn) { theirs.Close() },
		"the other side sends": func(_, theirs net.Conn) { _, _ = theirs.Write([]byte("unread")); theirs.Close() },
		"the other side breaks off": func(_, theirs net.Conn) {
			_ = theirs.(*net.TCPConn).SetLinger(0)
			theirs.Close()
		},
		"this side ends": func(ours, _ net.Conn) { ours.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := pair(t)
			for what, conn := range map[string]net.Conn{"plain": ours, "TLS": tls.Server(ours, &tls.Config{})} {
				if !Open(conn) {
					t.Errorf("%s: got closed, want open", what)
				}
			}
			gone := make(chan struct{})
			go Watch(t.Context(), ours, time.Millisecond, func() { close(gone) })
			end(ours, theirs)
			select {
			case <-gone:
			case <-time.After(time.Minute):
				t.Error("the end was not noticed")
			}
			if Open(ours) {
				t.Error("afterwards: got open, want closed")
			}
		})
	}
}
