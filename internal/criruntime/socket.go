// SPDX-License-Identifier: Apache-2.0

package criruntime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// scheme is that of the addresses of container runtimes.
const scheme = "unix://"

// socket chooses the socket of the container runtime. A container runtime may start later
// than the agent, and another program may listen at one of the sockets.
type socket struct {
	paths []string // the best one first

	mu    sync.Mutex
	path  string   // that was dialed last
	conn  net.Conn // to path; nil for none
	final bool     // what listens at path is a container runtime
}

func newSocket(addresses []string) (*socket, error) {
	s := &socket{}
	for _, address := range addresses {
		path, ok := strings.CutPrefix(address, scheme)
		if !ok || !filepath.IsAbs(path) {
			return nil, fmt.Errorf("container runtime's socket %q: want %s and an absolute path", address, scheme)
		}
		s.paths = append(s.paths, path)
	}
	if len(s.paths) == 0 {
		return nil, errors.New("container runtime's socket: want at least one address")
	}
	return s, nil
}

// pick returns the path to dial: the first that exists, or else the last. The caller holds
// s.mu.
func (s *socket) pick() string {
	if s.final {
		return s.path
	}
	for _, path := range s.paths {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return s.paths[len(s.paths)-1]
}

// dial connects to the socket that is the best one now.
func (s *socket) dial(ctx context.Context, _ string) (net.Conn, error) {
	s.mu.Lock()
	s.path, s.conn = s.pick(), nil
	path := s.path
	s.mu.Unlock()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == path {
		s.conn = conn
	}
	return conn, nil
}

// again drops the connection if a better socket has appeared and no container runtime was
// found yet.
func (s *socket) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && s.pick() != s.path {
		_ = s.conn.Close()
		s.conn = nil
	}
}

// found keeps the socket at path: a container runtime has answered there. Another one may
// have been dialed meanwhile.
func (s *socket) found(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.paths, path) {
		s.path, s.final = path, true
	}
}

// address returns the address that is in use, or would be used next.
func (s *socket) address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return scheme + s.pick()
}

// Socket returns the address of the container runtime. It changes until one has answered.
func (r *Runtime) Socket() string { return r.socket.address() }
