// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// linkSocket is a socket for requests about links. It leaves the parsing of messages to
// its caller and copies none of them, because each check of all walls receives
// hundreds.
type linkSocket struct {
	fd  int
	seq uint32
	buf []byte
}

// linkRoom is the size of a buffer for the kernel's messages, in bytes. The kernel
// sends at most 32 KiB at a time.
const linkRoom = 64 << 10

// openLinkSocket opens a socket in the network namespace of this process. buf has
// linkRoom bytes.
func openLinkSocket(buf []byte) (*linkSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &linkSocket{fd: fd, buf: buf}, nil
}

func (r *linkSocket) close() { _ = unix.Close(r.fd) }

// linkRequest is the body of a request about the link with an index; 0 means all
// links. nsid is the node's ID of the links' namespace; -1 means the node's own.
func linkRequest(index, nsid int) []byte {
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS: statistics are costly
	b := make([]byte, unix.SizeofIfInfomsg, 64)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	b = appendNumber(b, unix.IFLA_EXT_MASK, skipStats)
	if nsid >= 0 {
		b = appendNumber(b, unix.IFLA_TARGET_NETNSID, uint32(nsid))
	}
	return b
}

func appendNumber(b []byte, kind uint16, n uint32) []byte {
	b = binary.NativeEndian.AppendUint16(b, 8)
	b = binary.NativeEndian.AppendUint16(b, kind)
	return binary.NativeEndian.AppendUint32(b, n)
}

// links calls f with the body of each RTM_NEWLINK message that answers a request.
// flags are NLM_F_DUMP or 0. The body is valid only during the call. The error is
// errInterrupted if the list changed while it was read.
func (r *linkSocket) links(flags uint16, request []byte, f func(body []byte)) error {
	r.seq++
	m := make([]byte, 0, unix.SizeofNlMsghdr+len(request))
	m = binary.NativeEndian.AppendUint32(m, uint32(cap(m)))
	m = binary.NativeEndian.AppendUint16(m, unix.RTM_GETLINK)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|flags)
	m = binary.NativeEndian.AppendUint32(m, r.seq)
	m = binary.NativeEndian.AppendUint32(m, 0)
	if _, err := unix.Write(r.fd, append(m, request...)); err != nil {
		return os.NewSyscallError("write", err)
	}
	interrupted := false
	for {
		// The kernel answers before it returns from the call, so this never waits.
		n, err := unix.Read(r.fd, r.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		if n == len(r.buf) {
			return errors.New("a message is too long")
		}
		done := flags&unix.NLM_F_DUMP == 0
		err = eachMessage(r.buf[:n], func(h unix.NlMsghdr, body []byte) error {
			interrupted = interrupted || h.Flags&unix.NLM_F_DUMP_INTR != 0
			switch {
			case h.Seq != r.seq:
				return fmt.Errorf("got an answer to request %d, want %d", h.Seq, r.seq)
			case h.Type == unix.NLMSG_DONE || h.Type == unix.NLMSG_ERROR:
				done = true
				return errorIn(body)
			case h.Type == unix.RTM_NEWLINK:
				f(body)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if done && interrupted {
			return errInterrupted
		}
		if done {
			return nil
		}
	}
}

// eachMessage calls f for each netlink message in b until it returns an error.
func eachMessage(b []byte, f func(h unix.NlMsghdr, body []byte) error) error {
	for len(b) > 0 {
		if len(b) < unix.SizeofNlMsghdr {
			return errMalformed
		}
		h := unix.NlMsghdr{
			Len: binary.NativeEndian.Uint32(b), Type: binary.NativeEndian.Uint16(b[4:]), Flags: binary.NativeEndian.Uint16(b[6:]),
			Seq: binary.NativeEndian.Uint32(b[8:]), Pid: binary.NativeEndian.Uint32(b[12:]),
		}
		if h.Len < unix.SizeofNlMsghdr || uint64(h.Len) > uint64(len(b)) {
			return errMalformed
		}
		if err := f(h, b[unix.SizeofNlMsghdr:h.Len]); err != nil {
			return err
		}
		b = b[min(len(b), int(h.Len+3)&^3):]
	}
	return nil
}

var errMalformed = errors.New("malformed netlink message")

// errorIn returns the error in the body of NLMSG_ERROR or NLMSG_DONE; nil if there
// is none.
func errorIn(body []byte) error {
	if len(body) < 4 {
		return nil
	}
	if code := int32(binary.NativeEndian.Uint32(body)); code < 0 {
		return unix.Errno(-code)
	}
	return nil
}
