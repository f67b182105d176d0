// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"encoding/json"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"botbottle.dev/bottle-operator/internal/egress"
)

const (
	// maxReason is how many characters of an error about the rules file are logged.
	maxReason = 300
	// logRate is how many decisions of each kind are logged per second, on
	// average, and logBurst how many at once. A guest can cause hundreds of
	// thousands of decisions per second.
	logRate  = 20
	logBurst = 100
	// newRate and newBurst are the same for decisions about targets that are not
	// among the last that were logged: a program that is refused the same target all
	// the time must not hide what else is refused.
	newRate  = 5
	newBurst = egress.MaxDenials
	// countDelay is how long decisions that are left out of the log may wait to be
	// counted in it.
	countDelay = time.Second
)

// decisionLog writes JSON lines. A line contains only the host and port of a
// request: paths, queries and headers may hold secrets. It limits the rate of
// decisions. The kinds of decisions (allow, deny, fail) have separate limits, so
// that a flood of refusals does not hide what was allowed.
type decisionLog struct {
	mu    sync.Mutex
	w     io.Writer
	kinds map[string]*kind
	// counting is true while flush is scheduled.
	counting bool
}

// kind is the state of the decisions of one kind.
type kind struct {
	limit *rate.Limiter
	// leftOut is what was left out since the last count in the log, by rule. There are no
	// more rules than a rules file has.
	leftOut map[ruleKey]*leftOut

	// targets are the last targets that were logged, each once. There are as many as a
	// Bottle's status lists, so that the status still lists each of them.
	targets [egress.MaxDenials]loggedTarget
	next    int // index of the oldest
	// newLimit is for targets that are not among them.
	newLimit *rate.Limiter
}

// ruleKey is a rule for requests to opened hosts; the zero value stands for none.
type ruleKey struct {
	host  string
	index int
}

// leftOut sums up decisions.
type leftOut struct {
	decisions uint32
	in, out   int64 // bytes
}

type loggedTarget struct {
	host   string
	port   uint16
	closed egress.ClosedBy
	// The next ones are for opened hosts only.
	cause  egress.Cause
	method string
	rule   ruleKey
}

// admits reports whether the decision may be logged.
func (k *kind) admits(t loggedTarget) bool {
	known := slices.Contains(k.targets[:], t)
	if !k.limit.Allow() && (known || !k.newLimit.Allow()) {
		return false
	}
	if !known {
		k.targets[k.next] = t
		k.next = (k.next + 1) % len(k.targets)
	}
	return true
}

// leaveOut counts a decision that is not logged.
func (k *kind) leaveOut(line logLine) {
	sum := k.leftOut[line.key()]
	if sum == nil {
		sum = &leftOut{}
		k.leftOut[line.key()] = sum
	}
	sum.decisions++
	sum.in += line.BytesIn
	sum.out += line.BytesOut
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
	// Cause and Address are the fields of an egress.Refusal.
	Cause   egress.Cause `json:"cause,omitempty"`
	Address string       `json:"address,omitempty"`
	// LeftOut is how many decisions of this kind were left out of the log since
	// the last such line.
	LeftOut uint32 `json:"leftOut,omitempty"`
	Reason  string `json:"reason"`

	requestLine
}

// requestLine is the part of a line about a request to an opened host.
type requestLine struct {
	Method string `json:"method,omitempty"` // a known one, or "other"
	// Rule is the host of the rule that decided, and RuleIndex the rule's place among all
	// rules of the Bottle.
	Rule      string `json:"rule,omitempty"`
	RuleIndex *int   `json:"ruleIndex,omitempty"`
	// Credential names the credential that was added, as SECRET/KEY.
	Credential string `json:"credential,omitempty"`
	// BytesIn and BytesOut are the lengths of the bodies: from the guest and to it.
	BytesIn  int64 `json:"bytesIn,omitempty"`
	BytesOut int64 `json:"bytesOut,omitempty"`
	// Secret, Key and Place say which known secret is in the request and where: url,
	// header or body. The request is allowed nevertheless if the value is short.
	Secret string `json:"secret,omitempty"`
	Key    string `json:"key,omitempty"`
	Place  string `json:"place,omitempty"`
}

func (l requestLine) key() ruleKey {
	if l.RuleIndex == nil {
		return ruleKey{}
	}
	return ruleKey{l.Rule, *l.RuleIndex}
}

func newDecisionLog(w io.Writer) *decisionLog {
	if w == nil {
		w = io.Discard
	}
	l := &decisionLog{w: w, kinds: map[string]*kind{}}
	for _, word := range words {
		l.kinds[word] = &kind{limit: rate.NewLimiter(logRate, logBurst), newLimit: rate.NewLimiter(newRate, newBurst), leftOut: map[ruleKey]*leftOut{}}
	}
	return l
}

// words are the kinds of decisions, in the order in which flush counts them.
var words = []string{"allow", "deny", "fail"}

// decision logs the outcome of a request.
func (l *decisionLog) decision(t target, d decision) {
	l.request(t, d, requestLine{Secret: d.refusal.Secret, Key: d.refusal.Key, Place: d.refusal.Place})
}

// exchange logs the outcome of a request to an opened host.
func (l *decisionLog) exchange(x *exchange, d decision) {
	line := requestLine{
		Method: egress.KnownMethod(x.method), BytesIn: x.in.Load(), BytesOut: x.out.Load(),
		Secret: d.refusal.Secret, Key: d.refusal.Key, Place: d.refusal.Place,
	}
	if x.rule != nil {
		line.Rule, line.RuleIndex = x.rule.Host.String(), &x.index
	}
	if x.header != nil {
		line.Credential = x.rule.Credential.String()
	}
	if f := x.found.Load(); f != nil && line.Secret == "" {
		line.Secret, line.Key, line.Place = f.hit.Name, f.hit.Key, f.place
	}
	l.request(x.target, d, line)
}

func (l *decisionLog) request(t target, d decision, request requestLine) {
	word := "deny"
	switch {
	case d.allowed:
		word = "allow"
	case d.status >= 500:
		word = "fail"
	}
	line := logLine{Decision: word, Host: egress.PrintableHost(t.host), Port: t.port, Reason: d.reason, requestLine: request}
	if r := d.refusal; !d.allowed {
		line.Closed, line.Cause, line.Reason = r.By, r.Cause, r.Why()
		if r.Addr.IsValid() {
			line.Address = r.Addr.WithZone("").String()
		}
	}
	l.writeDecision(line)
}

// rules logs what happened to the rules file, and how many rules apply now.
func (l *decisionLog) rules(reason string, n int) {
	l.write(logLine{Event: "rules", Rules: &n, Reason: reason})
}

// event logs what happened to another file.
func (l *decisionLog) event(file, reason string) { l.write(logLine{Event: file, Reason: reason}) }

// networks logs what happened to the bundle's own networks.
func (l *decisionLog) networks(reason string) {
	l.write(logLine{Event: "networks", Reason: reason})
}

// writeDecision writes the line of a decision, or counts it if too many came
// before it.
func (l *decisionLog) writeDecision(line logLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[line.Decision]
	t := loggedTarget{host: line.Host, port: line.Port, closed: line.Closed}
	if line.Method != "" {
		t.cause, t.method, t.rule = line.Cause, line.Method, line.key()
	}
	if k.admits(t) {
		l.writeLocked(line)
		return
	}
	k.leaveOut(line)
	if !l.counting {
		l.counting = true
		time.AfterFunc(countDelay, l.flush)
	}
}

// flush writes how many decisions were left out of the log.
func (l *decisionLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counting = false
	for _, word := range words {
		k := l.kinds[word]
		for key, sum := range k.leftOut {
			line := logLine{Decision: word, LeftOut: sum.decisions, Reason: "too many decisions to log each"}
			line.BytesIn, line.BytesOut = sum.in, sum.out
			if key.host != "" {
				line.Rule, line.RuleIndex = key.host, &key.index
			}
			l.writeLocked(line)
		}
		clear(k.leftOut)
	}
}

func (l *decisionLog) write(line logLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writeLocked(line)
}

func (l *decisionLog) writeLocked(line logLine) {
	line.Time = time.Now().UTC().Format(time.RFC3339Nano)
	b, err := json.Marshal(line)
	if err != nil {
		return // strings and numbers always marshal
	}
	_, _ = l.w.Write(append(b, '\n')) // there is nowhere else to report an error
}
