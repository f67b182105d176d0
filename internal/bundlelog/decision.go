// SPDX-License-Identifier: Apache-2.0

// Package bundlelog reads the lines that a built-in bundle writes to its log, whichever
// runtime keeps it. It reads no files and follows no log.
package bundlelog

import (
	"encoding/json"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/host"
)

const (
	// MaxLine is the length of the longest line that can be a decision, in bytes, with the
	// runtime's timestamp.
	MaxLine = 8 << 10
	// maxReason is the length to which a reason is cut. A rule fits in it.
	maxReason = 300
	// maxClosed is the length to which the name of a limit is cut.
	maxClosed = 32
	// maxWord is the length to which a cause and an address are cut.
	maxWord = 48
	// maxRule is the length to which the host of a rule is cut, and maxName that of a
	// Secret or key.
	maxRule, maxName = 300, 253
	// maxBytes is the largest count of bytes that is believed: one that no connection
	// reaches.
	maxBytes = 1 << 50
)

// Decision parses a line of the bundle's log, without its newline. The line was received at
// the time at. Decision returns false if the line is not a decision. The text is not trusted.
func Decision(at time.Time, text []byte) (host.Decision, bool) {
	var entry struct {
		Decision string `json:"decision"`
		Host     string `json:"host"`
		Port     uint16 `json:"port"`
		Reason   string `json:"reason"`
		Closed   string `json:"closed"`
		Cause    string `json:"cause"`
		Address  string `json:"address"`
		LeftOut  uint32 `json:"leftOut"`

		Rule       string `json:"rule"`
		Method     string `json:"method"`
		Credential string `json:"credential"`
		Secret     string `json:"secret"`
		Key        string `json:"key"`
		Place      string `json:"place"`
		BytesIn    uint64 `json:"bytesIn"`
		BytesOut   uint64 `json:"bytesOut"`
	}
	if err := json.Unmarshal(text, &entry); err != nil {
		return host.Decision{}, false
	}
	switch entry.Decision {
	case host.VerdictAllow, host.VerdictDeny, host.VerdictFail:
	default:
		return host.Decision{}, false
	}
	if entry.LeftOut > 0 {
		entry.Host, entry.Port = "", 0
	}
	if entry.Method != "" {
		entry.Method = egress.KnownMethod(entry.Method)
	}
	return host.Decision{
		Time:    at,
		Verdict: entry.Decision,
		Host:    egress.PrintableHost(entry.Host),
		Port:    entry.Port,
		Reason:  egress.Printable(entry.Reason, maxReason),
		Closed:  egress.Printable(entry.Closed, maxClosed),
		Cause:   egress.Printable(entry.Cause, maxWord),
		Address: egress.Printable(entry.Address, maxWord),
		LeftOut: entry.LeftOut,

		Rule:       egress.Printable(entry.Rule, maxRule),
		Method:     entry.Method,
		Credential: egress.Printable(entry.Credential, 2*maxName+1),
		Secret:     egress.Printable(entry.Secret, maxName),
		Key:        egress.Printable(entry.Key, maxName),
		Place:      egress.Printable(entry.Place, maxWord),
		BytesIn:    min(entry.BytesIn, maxBytes),
		BytesOut:   min(entry.BytesOut, maxBytes),
	}, true
}
