// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import "io"

// upgraded is the connection to the host of a WebSocket.
type upgraded struct {
	io.ReadWriteCloser
	read   io.Reader
	frames *frameFilter
	x      *exchange
}

func (x *exchange) newUpgraded(conn io.ReadWriteCloser) *upgraded {
	u := &upgraded{ReadWriteCloser: conn, read: conn, frames: newFrameFilter(x), x: x}
	if x.header != nil {
		u.read = x.header.mask.NewMask(conn)
	}
	return u
}

// Read implements io.Reader.
func (u *upgraded) Read(p []byte) (int, error) {
	n, err := u.read.Read(p)
	u.x.out.Add(int64(n))
	return n, err
}

// Write implements io.Writer. It may keep the end of p until the next Write.
func (u *upgraded) Write(p []byte) (int, error) {
	pass, d := u.frames.write(p)
	if d != nil {
		u.x.end(*d)
		return 0, errEnded
	}
	n, err := u.ReadWriteCloser.Write(pass)
	u.x.in.Add(int64(n))
	if err != nil {
		return 0, err
	}
	u.frames.drop(n)
	return len(p), nil
}
