// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"io"
	"strconv"
	"sync"
	"time"
)

// most is how much of what came a line shows, before it is escaped.
const most = 64 << 10

// entry is a line of the log.
type entry struct {
	Time string `json:"time"`
	// Proto is tcp or udp, Kind http, dns or echo.
	Proto string `json:"proto"`
	Kind  string `json:"kind"`
	// Local is the address that was asked, Remote who asked.
	Local  string `json:"local"`
	Remote string `json:"remote"`
	// Name is what a DNS query asks for, as a person writes it.
	Name string `json:"name,omitempty"`
	// Data is the beginning of what came: ASCII, the rest as Go escapes it.
	Data string `json:"data"`
}

// journal writes each line with one call, so that lines of several processes
// that append to one file stay whole.
type journal struct {
	mu sync.Mutex
	w  io.Writer
}

func (j *journal) write(e entry, data []byte) {
	e.Time = time.Now().UTC().Format(time.RFC3339Nano)
	quoted := strconv.QuoteToASCII(string(data[:min(len(data), most)]))
	e.Data = quoted[1 : len(quoted)-1]
	line, err := json.Marshal(e)
	if err != nil {
		return // strings always marshal
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, _ = j.w.Write(append(line, '\n')) // there is nowhere else to say so
}
