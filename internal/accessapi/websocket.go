// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"bufio"
	"errors"
	"net"
	"net/http"
)

const (
	// webSocketOut is how much of what goes to a WebSocket is sent at once, in bytes: a
	// message of the translator, which has at most 32 KiB, and its head.
	webSocketOut = 33 << 10
	// record is how much a TLS record carries at most, and one read returns, in bytes.
	record = 16 << 10
)

// webSocketWriter gives the WebSocket of a client larger buffers than net/http does,
// whose 4 KiB would cut each message into two TLS records and packets.
type webSocketWriter struct{ http.ResponseWriter }

// Hijack implements http.Hijacker.
func (w webSocketWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	taker, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("the connection cannot be taken over")
	}
	conn, buffered, err := taker.Hijack()
	if err != nil {
		return nil, nil, err
	}
	return conn, bufio.NewReadWriter(bufio.NewReaderSize(buffered.Reader, record), bufio.NewWriterSize(conn, webSocketOut)), nil
}
