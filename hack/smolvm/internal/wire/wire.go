// SPDX-License-Identifier: Apache-2.0

// Package wire is the protocol between the command line and a machine's process
// over agent.sock: one JSON request, then frames in both directions until an End
// frame. It is specific to the stand-in; smolvm uses a different protocol.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// The operations that a Request can name.
const (
	Ping     = "ping"     // answered by End
	Exec     = "exec"     // run a command, stream its output
	Workload = "workload" // start the machine's main program, with output to its log
	Put      = "put"      // write a file from Data frames
	Get      = "get"      // read a file into Stdout frames
	Shutdown = "shutdown" // stop the workload, then the machine
)

// Request is the first message on a connection.
type Request struct {
	Op      string   `json:"op"`
	Argv    []string `json:"argv,omitempty"`
	Env     []string `json:"env,omitempty"`
	Workdir string   `json:"workdir,omitempty"`
	User    string   `json:"user,omitempty"`
	// Stdin forwards Data frames to the command; without it stdin is empty.
	Stdin bool `json:"stdin,omitempty"`
	// TTY gives the command a terminal with this many Rows and Cols.
	TTY  bool   `json:"tty,omitempty"`
	Rows uint16 `json:"rows,omitempty"`
	Cols uint16 `json:"cols,omitempty"`
	// TimeoutMS is how long the command may run; 0 = no limit. For Shutdown, it
	// is how long the workload may take to end.
	TimeoutMS int64 `json:"timeout_ms,omitempty"`
	// Detach leaves the command running and answers with its pid.
	Detach bool   `json:"detach,omitempty"`
	Path   string `json:"path,omitempty"`
	Mode   uint32 `json:"mode,omitempty"`
	UID    int    `json:"uid,omitempty"`
	GID    int    `json:"gid,omitempty"`
}

// The kinds of frames.
const (
	Data    = byte(iota) // towards the machine: stdin or file content
	DataEnd              // no more Data
	Resize               // Rows and Cols as two big-endian 16-bit numbers
	Stdout
	Stderr
	End // an Outcome as JSON; the last frame
)

// Outcome is the result of a request.
type Outcome struct {
	// Code is the command's exit code.
	Code int `json:"code"`
	// Signal is the signal that killed the command, 0 if none.
	Signal   int    `json:"signal,omitempty"`
	TimedOut bool   `json:"timed_out,omitempty"`
	NotFound bool   `json:"not_found,omitempty"`
	PID      int    `json:"pid,omitempty"`
	Error    string `json:"error,omitempty"`
}

// maxFrame is the largest accepted frame in bytes. It is large because a request
// contains the whole environment.
const maxFrame = 64 << 20

// Conn carries a request and frames. Several goroutines may write at the same
// time, but only one may read.
type Conn struct {
	rw io.ReadWriteCloser
	mu sync.Mutex
}

// New wraps a connection.
func New(rw io.ReadWriteCloser) *Conn { return &Conn{rw: rw} }

// Close ends the connection in both directions.
func (c *Conn) Close() error { return c.rw.Close() }

// SendRequest sends the request.
func (c *Conn) SendRequest(r *Request) error { return c.sendJSON(Data, r) }

// ReadRequest reads the request.
func (c *Conn) ReadRequest() (*Request, error) {
	_, b, err := c.Read()
	if err != nil {
		return nil, err
	}
	r := &Request{}
	return r, json.Unmarshal(b, r)
}

// Finish sends the last frame.
func (c *Conn) Finish(o *Outcome) error { return c.sendJSON(End, o) }

func (c *Conn) sendJSON(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Write(kind, b)
}

// Write sends one frame.
func (c *Conn) Write(kind byte, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	head := [5]byte{kind}
	binary.BigEndian.PutUint32(head[1:], uint32(len(payload)))
	if _, err := c.rw.Write(append(head[:], payload...)); err != nil {
		return err
	}
	return nil
}

// Read receives one frame.
func (c *Conn) Read() (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(c.rw, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes", n)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(c.rw, payload)
	return head[0], payload, err
}

// Writer is an io.Writer that sends data as frames of one kind.
type Writer struct {
	Conn *Conn
	Kind byte
}

func (w Writer) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		n := min(len(b)-done, 64<<10)
		if err := w.Conn.Write(w.Kind, b[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(b), nil
}
