// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"context"
	"net"
)

// early is a connection to an agent that is made while the Bottle is being read: both
// take a few milliseconds. Nothing is sent on it before the Bottle, as the API server has
// it, is known to be on that agent's node.
type early struct {
	target *target
	cancel context.CancelFunc
	// made is closed once conn and err are set.
	made chan struct{}
	conn net.Conn
	err  error
}

// early starts to connect to the agent that the Bottle has according to the cache. It
// returns nil if the Bottle seems to be on no node, or its machine not to run.
func (a *access) early(c *connection) *early {
	t := a.find.guess(c.r.Context(), c.namespace, c.name)
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithCancel(c.r.Context())
	e := &early{target: t, cancel: cancel, made: make(chan struct{})}
	go func() {
		defer close(e.made)
		e.conn, e.err = a.hop.handshake(ctx, t)
	}()
	return e
}

// take returns the connection if it leads to this target, and nil otherwise. Its error is
// for the user. The caller closes the connection.
func (e *early) take(t *target) (net.Conn, error) {
	if e == nil || e.target.node != t.node || e.target.address != t.address {
		return nil, nil
	}
	<-e.made // bounded by dialTimeout
	conn := e.conn
	e.conn = nil
	return conn, e.err
}

// close closes the connection unless it was taken.
func (e *early) close() {
	if e == nil {
		return
	}
	e.cancel()
	<-e.made
	if e.conn != nil {
		e.conn.Close()
	}
}
