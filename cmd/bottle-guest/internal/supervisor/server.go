// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"encoding/json"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxConnections bounds all connections, including those that have not sent their
	// request yet.
	maxConnections  = 32
	requestPatience = 5 * time.Second
	maxGrace        = time.Hour
)

// address returns the address at which the supervisor of this machine start listens.
// It is an abstract one: it needs no folder that can be written.
func address(start string) *net.UnixAddr {
	return &net.UnixAddr{Net: "unix", Name: "@bottle-guest/" + start}
}

// stopRequest asks the supervisor to end the workload.
type stopRequest struct {
	grace time.Duration
	done  chan struct{} // closed once the workload has ended
}

// server serves clients: other processes of this guest and this user, or of root.
type server struct {
	hub   *hub
	input *input
	stops chan stopRequest
	// idle reports that there is no workload to attach to.
	idle func() bool
}

func (s *server) listen(start string) error {
	l, err := net.ListenUnix("unix", address(start))
	if err != nil {
		return err
	}
	go s.accept(l)
	return nil
}

func (s *server) accept(l *net.UnixListener) {
	slots := make(chan struct{}, maxConnections)
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			<-time.After(100 * time.Millisecond) // out of file descriptors
			continue
		}
		select {
		case slots <- struct{}{}:
			go func() {
				defer func() { <-slots }()
				defer conn.Close()
				s.serve(conn)
			}()
		default:
			conn.Close()
		}
	}
}

func (s *server) serve(conn *net.UnixConn) {
	_ = conn.SetReadDeadline(time.Now().Add(requestPatience))
	f, err := readFrame(conn)
	var r request
	if err != nil || f.kind != kindRequest || json.Unmarshal(f.payload, &r) != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if !allowed(conn) {
		refuse(conn, "another user")
		return
	}
	switch r.Op {
	case opAttach:
		s.attach(conn, r)
	case opStop:
		s.stop(conn, time.Duration(r.GraceMillis)*time.Millisecond)
	default:
		refuse(conn, "unknown request")
	}
}

// allowed reports whether the peer is root or the supervisor's own user.
func allowed(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = raw.Control(func(fd uintptr) {
		peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		ok = err == nil && (peer.Uid == 0 || int(peer.Uid) == os.Geteuid())
	})
	return err == nil && ok
}

// refuse ends a connection with an error for the user.
func refuse(conn net.Conn, why string) {
	_ = conn.SetWriteDeadline(time.Now().Add(requestPatience))
	_ = writeFrame(conn, endFrame(outcome{Error: why}))
}

func (s *server) attach(conn net.Conn, r request) {
	if s.idle() {
		refuse(conn, "the machine runs without its workload")
		return
	}
	c := newClient(conn)
	c.mayWrite = r.Stdin
	first, end, ok := s.hub.add(c)
	if !ok {
		refuse(conn, "too many clients are attached")
		return
	}
	defer s.hub.remove(c)
	if end != nil {
		c.send(endFrame(*end))
	}
	go c.listen(s.input)
	c.serve(first)
}

func (s *server) stop(conn net.Conn, grace time.Duration) {
	stop := stopRequest{min(max(grace, 0), maxGrace), make(chan struct{})}
	s.stops <- stop
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		select {
		case <-stop.done:
			_ = writeFrame(conn, endFrame(outcome{}))
			return
		case <-alive.C:
			if writeFrame(conn, frame{kind: kindAlive}) != nil {
				return // the workload is stopped all the same
			}
		}
	}
}
