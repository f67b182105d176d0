// SPDX-License-Identifier: Apache-2.0

package needle

import (
	"encoding/binary"
	"slices"
)

// maxBreaks is how many line-break characters in a row may interrupt base64 and hex.
const maxBreaks = 2

// engine finds the needles in one stream. It reads each byte once, and its result
// does not depend on how the stream is cut into chunks.
//
// Where no needle may have begun, it looks only at the last four bytes. Where one may
// have, it follows each possible beginning: as an opening until four characters are
// known, and then as a candidate of one needle.
type engine struct {
	starts     *starts
	n          int64  // bytes read so far
	last       uint32 // the last four of them, the latest in the least significant byte
	openings   []opening
	candidates []candidate
	found      []occurrence
	discreet   bool // held does not tell how values begin that are unknown to the sender

	// What openings and candidates were stored in before the last byte.
	spareOpenings []opening
	spare         []candidate
}

// opening is a beginning of up to three characters that contains an escape or a line
// break. Without these, four bytes show that a needle begins.
type opening struct {
	start  int64
	text   uint32 // its characters, the latest in the least significant byte
	n      int    // their number
	escape escape // the escape that is being read, if any
	breaks int    // line-break characters since the last character
	broken bool   // a line break was skipped, so that only some forms are possible
}

// candidate is a needle of which the first n characters were found.
type candidate struct {
	needle *needle
	start  int64
	n      int
	escape escape
	breaks int
}

// occurrence is a needle in the stream: the bytes from start to before end.
type occurrence struct {
	needle     *needle
	start, end int64
}

var noStarts = newStarts(nil)

func (s *Set) newEngine() engine {
	if s == nil {
		return engine{starts: &noStarts}
	}
	return engine{starts: &s.starts}
}

func (e *engine) write(p []byte) {
	if len(e.starts.entries) == 0 {
		e.n += int64(len(p))
		return
	}
	for i := 0; i < len(p); i++ {
		if len(e.openings) == 0 && len(e.candidates) == 0 {
			if i = e.skip(p, i); i == len(p) {
				return
			}
		}
		e.step(p[i])
	}
}

// special contains the characters that only step understands: those that open an
// escape, and line breaks.
var special = [256]bool{'%': true, '\\': true, '&': true, '\n': true, '\r': true}

// skip reads bytes while none of them may complete the start of a needle, and returns
// the index of the first one that may.
func (e *engine) skip(p []byte, i int) int {
	last, begin := e.last, i
	for i < len(p) {
		if i >= startLength {
			i = e.starts.skipBlocks(p, i)
			last = binary.BigEndian.Uint32(p[i-startLength:])
		}
		block := min(i+blockLength, len(p))
		for ; i < block && !e.starts.stop(p, i, last); i++ {
			last = last<<8 | uint32(p[i])
		}
		if i < block {
			break
		}
	}
	e.last = last
	e.n += int64(i - begin)
	return i
}

// step reads one byte.
func (e *engine) step(b byte) {
	e.n++
	candidates := e.candidates
	e.candidates = e.spare[:0]
	for i := range candidates {
		e.advance(&candidates[i], b)
	}
	e.spare = candidates
	openings := e.openings
	e.openings = e.spareOpenings[:0]
	for i := range openings {
		e.widen(&openings[i], b)
	}
	e.spareOpenings = openings
	before := e.last
	e.last = before<<8 | uint32(b)
	if e.n >= startLength && e.starts.first.mayContain(e.last) {
		e.begin(e.last, e.n-startLength, false)
	}
	if special[b] {
		e.open(before, b)
	}
}

// begin adds a candidate for each needle that begins with the four characters. Only
// forms that line breaks may interrupt are possible if one did.
func (e *engine) begin(text uint32, at int64, broken bool) { //nolint:revive // a property of the text, not a mode
	for _, s := range e.starts.with(text, startLength) {
		if !broken || s.needle.form.wraps() {
			e.keep(candidate{needle: s.needle, start: at, n: startLength})
		}
	}
}

// keep keeps a candidate, or reports that it is complete.
func (e *engine) keep(c candidate) {
	if c.n == c.needle.n {
		e.found = append(e.found, occurrence{needle: c.needle, start: c.start, end: e.n})
		return
	}
	// Different ways of reading the same bytes may end in the same state.
	for i := len(e.candidates) - 1; i >= 0 && e.candidates[i].start == c.start; i-- {
		if e.candidates[i] == c {
			return
		}
	}
	e.candidates = append(e.candidates, c)
}

// advance reads one more byte of a candidate.
func (e *engine) advance(c *candidate, b byte) {
	if c.escape.n == 0 {
		if opensEscape(b) {
			escaped := *c
			escaped.escape.add(b)
			if escaped.possible() {
				e.keep(escaped)
			}
		}
		e.accept(*c, b)
		return
	}
	switch char, state := c.escape.add(b); {
	case state == complete:
		c.escape = escape{}
		e.accept(*c, char)
	case state == incomplete && c.possible():
		e.keep(*c)
	}
}

// accept keeps the candidate if char continues it.
func (e *engine) accept(c candidate, char byte) {
	switch {
	case c.needle.form.accepts(c.needle.char(c.n), char):
		c.n, c.breaks = c.n+1, 0
	case isBreak(char) && c.needle.form.wraps() && c.breaks < maxBreaks:
		c.breaks++
	default:
		return
	}
	e.keep(c)
}

// possible reports whether the escape that is being read can become a character that
// continues the candidate.
func (c *candidate) possible() bool {
	form := c.needle.form
	for _, spelling := range []byte(form.spellings(c.needle.char(c.n))) {
		if c.escape.mayBecome(spelling) {
			return true
		}
	}
	return form.wraps() && c.breaks < maxBreaks && c.escape.mayBecomeBreak()
}

func (e escape) mayBecomeBreak() bool {
	text := e.String()
	return text == `\` || e.mayBecome('\n') || e.mayBecome('\r')
}

func isBreak(c byte) bool { return c == '\n' || c == '\r' }

// open adds the openings in which b, which follows the bytes before, opens an escape or
// is a line break.
func (e *engine) open(before uint32, b byte) {
	for n := 0; n < startLength && int64(n) < e.n; n++ {
		if n > 0 && !e.starts.begins(before, n) {
			continue
		}
		o := opening{start: e.n - 1 - int64(n), text: before & (1<<(8*n) - 1), n: n}
		switch {
		case opensEscape(b):
			o.escape.add(b)
			e.openings = append(e.openings, o)
		case n > 0:
			e.skipBreak(o)
		}
	}
}

// skipBreak adds the opening after a line break that does not belong to its text.
func (e *engine) skipBreak(o opening) {
	if o.n > 0 && o.breaks < maxBreaks {
		o.broken, o.breaks = true, o.breaks+1
		e.openings = append(e.openings, o)
	}
}

// widen reads one more byte of an opening.
func (e *engine) widen(o *opening, b byte) {
	if o.escape.n == 0 {
		if opensEscape(b) {
			escaped := *o
			escaped.escape.add(b)
			e.openings = append(e.openings, escaped)
		}
		e.append(*o, b)
		return
	}
	switch char, state := o.escape.add(b); state {
	case complete:
		o.escape = escape{}
		e.append(*o, char)
	case incomplete:
		e.openings = append(e.openings, *o)
	}
}

// append adds the opening with one more character.
func (e *engine) append(o opening, char byte) {
	if isBreak(char) {
		e.skipBreak(o)
	}
	o.text, o.n, o.breaks = o.text<<8|uint32(char), o.n+1, 0
	switch {
	case !e.starts.begins(o.text, o.n):
	case o.n == startLength:
		e.begin(o.text, o.start, o.broken)
	default:
		e.openings = append(e.openings, o)
	}
}

// held returns the length of the longest suffix of the stream that is the beginning of
// a needle.
func (e *engine) held() int {
	from := e.n
	for n := min(startLength-1, int(min(e.n, startLength))); n > 0; n-- {
		if e.starts.begins(e.last, n) && (!e.discreet || slices.ContainsFunc(e.starts.with(e.last, n), start.known)) {
			from = e.n - int64(n)
			break
		}
	}
	for i := range e.candidates {
		if c := &e.candidates[i]; !e.discreet || !c.needle.value.unknown || c.n >= c.needle.n-c.needle.n/4 {
			from = min(from, c.start)
		}
	}
	for i := range e.openings {
		if o := &e.openings[i]; o.start < from && e.possible(o) {
			from = o.start
		}
	}
	return int(e.n - from)
}

// possible reports whether a needle begins with the opening.
func (e *engine) possible(o *opening) bool {
	return slices.ContainsFunc(e.starts.with(o.text, o.n), func(s start) bool {
		wraps := s.needle.form.wraps()
		if o.broken && !wraps || e.discreet && !s.known() {
			return false
		}
		next := byte(s.text >> (8 * (startLength - 1 - o.n)))
		return o.escape.mayBecome(next) || wraps && o.n > 0 && o.breaks < maxBreaks && o.escape.mayBecomeBreak()
	})
}
