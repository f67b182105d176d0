// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
)

// maxReason is how many characters of an error about the rules file are logged.
const maxReason = 300

// decisionLog writes JSON lines. A line contains only the host and port of a
// request: paths, queries and headers may hold secrets.
type decisionLog struct {
	mu sync.Mutex
	w  io.Writer
}

type logLine struct {
	Time     string `json:"time"`
	Decision string `json:"decision,omitempty"` // allow, deny or fail
	Event    string `json:"event,omitempty"`
	Host     string `json:"host,omitempty"`
	Port     uint16 `json:"port,omitempty"`
	Rules    *int   `json:"rules,omitempty"`
	// Closed says which limit of the platform the request met.
	Closed egress.ClosedBy `json:"closed,omitempty"`
	Reason string          `json:"reason"`
}

func newDecisionLog(w io.Writer) *decisionLog {
	if w == nil {
		w = io.Discard
	}
	return &decisionLog{w: w}
}

// decision logs the outcome of a request.
func (l *decisionLog) decision(t target, d decision) {
	word := "deny"
	switch {
	case d.allowed:
		word = "allow"
	case d.status >= 500:
		word = "fail"
	}
	l.write(logLine{Decision: word, Host: egress.PrintableHost(t.host), Port: t.port, Closed: d.closed, Reason: d.reason})
}

// failed logs that an allowed target does not answer.
func (l *decisionLog) failed(t target) {
	l.write(logLine{Decision: "fail", Host: egress.PrintableHost(t.host), Port: t.port, Reason: "the host does not answer"})
}

// rules logs what happened to the rules file, and how many rules apply now.
func (l *decisionLog) rules(reason string, n int) {
	l.write(logLine{Event: "rules", Rules: &n, Reason: reason})
}

// networks logs what happened to the bundle's own networks.
func (l *decisionLog) networks(reason string) {
	l.write(logLine{Event: "networks", Reason: reason})
}

func (l *decisionLog) write(line logLine) {
	line.Time = time.Now().UTC().Format(time.RFC3339Nano)
	b, err := json.Marshal(line)
	if err != nil {
		return // strings and numbers always marshal
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.w.Write(append(b, '\n')) // there is nowhere else to report an error
}
