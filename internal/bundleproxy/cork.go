// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"io"
	"sync"
)

// cork collects what is written to a guest's connection until it is pulled. For each
// piece of a stream, net/http writes three TLS records by HTTP/1.1, and crypto/tls would
// make a system call for each.
type cork struct {
	mu  sync.Mutex
	in  bool
	buf []byte // from copyBuffers, or nil
	n   int    // bytes in it
	err error  // what the connection returned; sticky
}

// put puts the cork in. The caller must pull it when it has written a piece.
func (k *cork) put() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.in = true
}

// pull writes what was collected to w, and lets later writes through.
func (k *cork) pull(w io.Writer) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.in = false
	k.writeOut(w)
	return k.err
}

// write writes p to w, or collects it.
func (k *cork) write(w io.Writer, p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.in && len(p) <= copyBufferSize-k.n && k.err == nil {
		if k.buf == nil {
			k.buf = copyBuffers.Get()
		}
		k.n += copy(k.buf[k.n:], p)
		return len(p), nil
	}
	if k.writeOut(w); k.err != nil {
		return 0, k.err
	}
	n, err := w.Write(p)
	k.err = err
	return n, err
}

func (k *cork) writeOut(w io.Writer) {
	if k.buf == nil {
		return
	}
	if k.err == nil {
		_, k.err = w.Write(k.buf[:k.n])
	}
	copyBuffers.Put(k.buf)
	k.buf, k.n = nil, 0
}
