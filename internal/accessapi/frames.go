// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/remotecommand"

	"botbottle.dev/bottle-operator/internal/garbage"
)

const (
	// A SPDY frame starts with a head: a control bit and a version and type, or the
	// number of a stream; then flags, and a length of three bytes.
	frameHead = 8
	synStream = 1
	// maxFrame bounds the length of one data frame from an agent, in bytes, and
	// maxControl that of another one, whose headers are compressed. The translator for
	// WebSocket clients reads each into memory, and queues up to 50 of a stream. Agents
	// send less than 64 KiB at a time.
	maxFrame   = 256 << 10
	maxControl = 4 << 10
	// maxResult bounds what an agent sends on the error stream, which the translator
	// for WebSocket clients reads to its end into memory.
	maxResult = 64 << 10
	// maxStreams bounds the streams of a session: clients open at most five.
	maxStreams = 16
)

var (
	errFrame  = errors.New("the agent sent a frame that is too long")
	errResult = errors.New("the agent sent a result that is too long")
	errStream = errors.New("the agent opened a stream")
)

// traffic counts what passes between a client and an agent, and learns the exit
// code. It looks only at the heads of SPDY's frames and at the error stream, which is
// the first stream that clients open.
type traffic struct {
	in, out atomic.Int64
	// errorStream is the number of the error stream, or 0 while it is unknown.
	errorStream atomic.Uint32

	mu     sync.Mutex
	result []byte
	// streams are the numbers of all streams, at most maxStreams.
	streams []uint32
}

// frames follows the frames in one direction.
type frames struct {
	head   [frameHead]byte
	filled int
	// left is how much of the frame's payload is still to come.
	left int
	// stream is the number of the stream of a data frame, or 0.
	stream uint32
	// begin judges the head of a frame, and payload sees a piece of a data frame.
	begin   func(head [frameHead]byte, length int) error
	payload func(stream uint32, piece []byte) error
	// first has the start of a control frame's payload, up to four bytes.
	control bool
	first   []byte
	opened  func(stream uint32)
}

// feed looks at the next bytes of the direction.
func (f *frames) feed(p []byte) error {
	for len(p) > 0 {
		if f.left == 0 {
			n := copy(f.head[f.filled:], p)
			f.filled, p = f.filled+n, p[n:]
			if f.filled < frameHead {
				return nil
			}
			if err := f.start(); err != nil {
				return err
			}
			continue
		}
		piece := p[:min(len(p), f.left)]
		p, f.left = p[len(piece):], f.left-len(piece)
		switch {
		case f.stream != 0:
			if err := f.payload(f.stream, piece); err != nil {
				return err
			}
		case f.control && len(f.first) < 4:
			f.first = append(f.first, piece[:min(len(piece), 4-len(f.first))]...)
			if len(f.first) == 4 {
				f.opened(binary.BigEndian.Uint32(f.first) &^ (1 << 31))
			}
		}
	}
	return nil
}

// start reads the head of a frame.
func (f *frames) start() error {
	f.filled = 0
	f.left = int(f.head[5])<<16 | int(f.head[6])<<8 | int(f.head[7])
	f.stream, f.control, f.first = 0, false, f.first[:0]
	if f.head[0]&0x80 == 0 {
		f.stream = binary.BigEndian.Uint32(f.head[:4])
	} else {
		f.control = isSynStream(f.head)
	}
	return f.begin(f.head, f.left)
}

func isSynStream(head [frameHead]byte) bool {
	return head[0]&0x80 != 0 && binary.BigEndian.Uint16(head[2:4]) == synStream
}

// fromClient follows what the client sends, which is trusted no less than its user.
func (t *traffic) fromClient() *frames {
	return &frames{
		begin: func([frameHead]byte, int) error { return nil },
		payload: func(_ uint32, piece []byte) error {
			garbage.Moved(t.in.Add(int64(len(piece))), len(piece))
			return nil
		},
		opened: t.open,
	}
}

func (t *traffic) open(stream uint32) {
	t.errorStream.CompareAndSwap(0, stream)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.streams) < maxStreams {
		t.streams = append(t.streams, stream)
	}
}

// fromAgent follows what the agent sends, and refuses what no agent needs to send.
func (t *traffic) fromAgent() *frames {
	return &frames{
		begin: func(head [frameHead]byte, length int) error {
			switch {
			case isSynStream(head):
				return errStream
			case length > maxFrame, head[0]&0x80 != 0 && length > maxControl:
				return errFrame
			}
			return nil
		},
		payload: t.received,
		opened:  func(uint32) {},
	}
}

func (t *traffic) received(stream uint32, piece []byte) error {
	if stream != t.errorStream.Load() {
		garbage.Moved(t.out.Add(int64(len(piece))), len(piece))
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.result)+len(piece) > maxResult {
		return errResult
	}
	t.result = append(t.result, piece...)
	return nil
}

// ended reports whether the agent has said how the command ended.
func (t *traffic) ended() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return json.Valid(t.result)
}

// exitCode returns the exit code that the agent reported, and whether it reported
// one. It serves the audit line alone.
func (t *traffic) exitCode() (code int, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	status := metav1.Status{}
	if json.Unmarshal(t.result, &status) != nil {
		return 0, false
	}
	if status.Status == metav1.StatusSuccess {
		return 0, true
	}
	if status.Reason != remotecommand.NonZeroExitCodeReason || status.Details == nil {
		return 0, false
	}
	for _, c := range status.Details.Causes {
		if c.Type == remotecommand.ExitCodeCauseType {
			n, err := strconv.ParseUint(c.Message, 10, 8)
			return int(n), err == nil
		}
	}
	return 0, false
}

// followed reports whether the frames were seen, and not only counted.
func (t *traffic) followed() bool { return t.errorStream.Load() != 0 }
