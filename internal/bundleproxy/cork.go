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
	buf []byte // from copyBuffers or largeCorks, or nil
	n   int    // bytes in it
	err error  // what the connection returned; sticky
}

const (
	// largeCork is the size in bytes of the buffer of a connection that more is written
	// to between two pulls than copyBufferSize.
	largeCork = 128 << 10
	// maxLargeCorks is how many connections may have one at a time.
	maxLargeCorks = 32
)

var (
	largeCorks     = sync.Pool{New: func() any { return new([largeCork]byte) }}
	largeCorkSlots = make(chan struct{}, maxLargeCorks)
)

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
	if k.in && k.err == nil && k.makeRoom(len(p)) {
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

// makeRoom makes room for n more bytes in the buffer. It reports false if there is none.
func (k *cork) makeRoom(n int) bool {
	if k.buf == nil {
		k.buf = copyBuffers.Get()
	}
	if n <= len(k.buf)-k.n {
		return true
	}
	if len(k.buf) == largeCork || n > largeCork-k.n {
		return false
	}
	select {
	case largeCorkSlots <- struct{}{}:
	default:
		return false
	}
	large := largeCorks.Get().(*[largeCork]byte)
	copy(large[:], k.buf[:k.n])
	copyBuffers.Put(k.buf)
	k.buf = large[:]
	return true
}

func (k *cork) writeOut(w io.Writer) {
	if k.buf == nil {
		return
	}
	if k.err == nil && k.n > 0 {
		_, k.err = w.Write(k.buf[:k.n])
	}
	if len(k.buf) == largeCork {
		largeCorks.Put((*[largeCork]byte)(k.buf))
		<-largeCorkSlots
	} else {
		copyBuffers.Put(k.buf)
	}
	k.buf, k.n = nil, 0
}
