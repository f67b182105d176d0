// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"syscall"
)

// The supervisor and its clients, which are this program too, exchange frames over a
// socket: a kind, the length as four bytes in network order, the payload. The first
// frame is the client's request.
type frame struct {
	kind    byte
	payload []byte
}

// Kinds of frames.
const (
	kindRequest  = byte(iota) // a request as JSON
	kindStdin                 // input for the workload
	kindStdinEnd              // the end of the input
	kindResize                // rows and columns, two bytes each
	kindStdout                // output of the workload
	kindStderr                // errors of the workload
	kindEnd                   // an outcome as JSON; the last frame
	kindAlive                 // nothing; tells whether the client is still there
)

// maxFrame is the maximum size of a payload in bytes.
const maxFrame = 64 << 10

// request is what a client wants.
type request struct {
	// Op is attach or stop.
	Op string `json:"op"`
	// Stdin, for attach: the client sends input.
	Stdin bool `json:"stdin,omitempty"`
	// GraceMillis, for stop: how long the workload may take to end.
	GraceMillis int64 `json:"graceMillis,omitempty"`
}

// Values of request.Op.
const (
	opAttach = "attach"
	opStop   = "stop"
)

func kindOf(s stream) byte {
	if s == stderr {
		return kindStderr
	}
	return kindStdout
}

func jsonFrame(kind byte, v any) frame {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types always have a JSON form
	}
	return frame{kind, text}
}

func endFrame(o outcome) frame { return jsonFrame(kindEnd, o) }

func resizeFrame(rows, cols uint16) frame {
	return frame{kindResize, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, rows), cols)}
}

func (f frame) size() (rows, cols uint16) {
	if len(f.payload) != 4 {
		return 0, 0
	}
	return binary.BigEndian.Uint16(f.payload), binary.BigEndian.Uint16(f.payload[2:])
}

func writeFrame(w io.Writer, f frame) error {
	head := binary.BigEndian.AppendUint32([]byte{f.kind}, uint32(len(f.payload)))
	_, err := w.Write(append(head, f.payload...))
	return err
}

func readFrame(r io.Reader) (frame, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return frame{}, fmt.Errorf("a frame of %d bytes, the maximum is %d", n, maxFrame)
	}
	f := frame{kind: head[0], payload: make([]byte, n)}
	_, err := io.ReadFull(r, f.payload)
	return f, err
}

// exitCode returns the exit code of a client for the workload's outcome, as a shell
// reports it.
func (o outcome) exitCode() int {
	if o.Signal != 0 {
		return 128 + o.Signal
	}
	return int(o.ExitCode)
}

func outcomeOf(status syscall.WaitStatus) outcome {
	if status.Signaled() {
		return outcome{Signal: int(status.Signal())}
	}
	return outcome{ExitCode: int32(status.ExitStatus())}
}
