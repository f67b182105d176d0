// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"io"
	"strconv"
	"sync"
	"time"
)

// maxData is the number of received bytes that a line shows, before escaping.
const maxData = 64 << 10

// entry is a line of the log.
type entry struct {
	Time string `json:"time"`
	// Proto is tcp or udp, Kind http, dns or echo.
	Proto string `json:"proto"`
	Kind  string `json:"kind"`
	// Local is the destination address of the request, Remote its source.
	Local  string `json:"local"`
	Remote string `json:"remote"`
	// Name is the name in a DNS query, in dotted form.
	Name string `json:"name,omitempty"`
	// Data is the beginning of the received data: printable ASCII, with all
	// other bytes escaped as in Go strings.
	Data string `json:"data"`
}

// journal writes each line with one Write call, so that lines stay whole when
// several processes append to the same file.
type journal struct {
	mu sync.Mutex
	w  io.Writer
}

func (j *journal) write(e entry, data []byte) {
	e.Time = time.Now().UTC().Format(time.RFC3339Nano)
	quoted := strconv.QuoteToASCII(string(data[:min(len(data), maxData)]))
	e.Data = quoted[1 : len(quoted)-1]
	line, err := json.Marshal(e)
	if err != nil {
		return // cannot happen: strings always marshal
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, _ = j.w.Write(append(line, '\n')) // there is nowhere to report an error
}
