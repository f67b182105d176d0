// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"sync"
	"time"
)

const (
	// maxReplay is the number of bytes of the latest output that a new client gets.
	maxReplay = 64 << 10
	// maxClients bounds the clients that are attached at the same time.
	maxClients = 8
	// clientPatience is how long the workload waits for a client that does not read,
	// before the client is dropped.
	clientPatience = time.Second
)

// piece is some output of one stream.
type piece struct {
	stream stream
	data   []byte
}

// hub gives the workload's output to the attached clients.
type hub struct {
	mu      sync.Mutex
	replay  []piece
	size    int // bytes in replay
	clients map[*client]bool
	end     *outcome // set once the workload has ended for good
}

// outcome is how the workload ended for good.
type outcome struct {
	ExitCode int32  `json:"exitCode"`
	Signal   int    `json:"signal,omitempty"`
	Error    string `json:"error,omitempty"`
}

// write passes a copy of the data on.
func (h *hub) write(s stream, data []byte) {
	p := piece{s, append([]byte{}, data...)}
	h.mu.Lock()
	h.remember(p)
	clients := make([]*client, 0, len(h.clients))
	for c := range h.clients {
		clients = append(clients, c)
	}
	h.mu.Unlock()
	for _, c := range clients {
		c.send(frame{kind: kindOf(p.stream), payload: p.data})
	}
}

func (h *hub) remember(p piece) {
	if len(p.data) > maxReplay {
		p.data = p.data[len(p.data)-maxReplay:]
	}
	h.replay = append(h.replay, p)
	h.size += len(p.data)
	for h.size > maxReplay {
		oldest := &h.replay[0]
		cut := min(h.size-maxReplay, len(oldest.data))
		oldest.data = oldest.data[cut:]
		h.size -= cut
		if len(oldest.data) == 0 {
			h.replay = h.replay[1:]
		}
	}
	// Many tiny pieces would cost more than their bytes.
	if len(h.replay) > 4096 {
		for _, p := range h.replay[:2048] {
			h.size -= len(p.data)
		}
		h.replay = append([]piece{}, h.replay[2048:]...)
	}
}

// add registers a client and returns what it must get first. end is set if the
// workload has ended for good; the client is not registered then. ok is false if there
// are too many clients.
func (h *hub) add(c *client) (first []piece, end *outcome, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	first = append([]piece{}, h.replay...)
	if h.end != nil {
		return first, h.end, true
	}
	if len(h.clients) >= maxClients {
		return nil, nil, false
	}
	if h.clients == nil {
		h.clients = map[*client]bool{}
	}
	h.clients[c] = true
	return first, nil, true
}

func (h *hub) remove(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.clients, c)
}

// finish tells all clients that the workload has ended for good.
func (h *hub) finish(o outcome) {
	h.mu.Lock()
	h.end = &o
	clients := h.clients
	h.clients = nil
	h.mu.Unlock()
	for c := range clients {
		c.send(endFrame(o))
	}
}
