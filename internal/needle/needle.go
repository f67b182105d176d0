// SPDX-License-Identifier: Apache-2.0

// Package needle finds known secrets in a stream of bytes, also where they are
// encoded or split over chunks, and masks them. It knows nothing of HTTP.
//
// A value is found as it is, in base64 (both alphabets, at each alignment) and in
// hex (both cases). Each character of these forms may be escaped as in a URL, as in
// a JSON string or as in HTML, in any mixture. Line breaks may interrupt base64 and
// hex. The package does not find a value that is compressed, encrypted, encoded
// twice, cut into pieces, or written in any other way.
package needle

import (
	"bytes"
	"cmp"
	"slices"
)

const (
	// ShortLength is the length in bytes below which a value may be in a request by
	// chance.
	ShortLength = 16
	// MinMasked is the length in bytes of the shortest value that is masked. To mask
	// shorter ones would garble ordinary answers.
	MinMasked = 6
	// MinLength is the length in bytes of the shortest value that is looked for.
	MinLength = 4
)

// Secret is a value to look for. White space around the value does not belong to it.
type Secret struct {
	Name, Key string // the Secret and its key
	Value     []byte
	// Unknown: the sender of a stream does not have the value. A Scanner then does not
	// hold back its first characters, see Safe.
	Unknown bool
}

// Hit says which secret was found. It never contains the value.
type Hit struct {
	Name, Key string
	Short     bool // the value has fewer than ShortLength bytes
}

// Set is a compiled set of secrets. It keeps the values, and many goroutines may use
// it. A nil Set contains no secret.
type Set struct {
	starts starts
}

// Compile returns the Set of the secrets. Values shorter than MinLength are left out.
func Compile(secrets []Secret) *Set {
	values := map[string]*value{}
	var ordered []*value
	for _, s := range secrets {
		text := bytes.TrimSpace(s.Value)
		if len(text) < MinLength {
			continue
		}
		v := values[string(text)]
		if v == nil {
			v = &value{text: bytes.Clone(text), unknown: true}
			values[string(text)] = v
			ordered = append(ordered, v)
		}
		v.unknown = v.unknown && s.Unknown
		v.hits = append(v.hits, Hit{Name: s.Name, Key: s.Key, Short: len(text) < ShortLength})
	}
	var needles []*needle
	for _, v := range ordered {
		needles = append(needles, v.needles()...)
	}
	return &Set{starts: newStarts(needles)}
}

// Scanner looks for secrets in one stream of bytes.
type Scanner struct {
	engine engine
	passed []string
}

// NewScanner returns a Scanner for one stream. It does not report the values that one
// of the passed Secrets contains.
func (s *Set) NewScanner(passed ...string) *Scanner {
	scanner := &Scanner{engine: s.newEngine(), passed: passed}
	scanner.engine.discreet = true
	return scanner
}

// Write scans the next bytes of the stream. It returns the first hit in them that is
// not short, or else the first short one, or nil. A hit belongs to the bytes that
// complete the secret.
func (s *Scanner) Write(p []byte) *Hit {
	s.engine.write(p)
	found := slices.DeleteFunc(s.engine.found, func(o occurrence) bool { return o.needle.value.isIn(s.passed) })
	s.engine.found = s.engine.found[:0]
	if len(found) == 0 {
		return nil
	}
	first := slices.MinFunc(found, func(a, b occurrence) int {
		short := func(o occurrence) int { return min(1, max(0, ShortLength-len(o.needle.value.text))) }
		return cmp.Or(cmp.Compare(short(a), short(b)), cmp.Compare(a.end, b.end), cmp.Compare(a.start, b.start))
	})
	hit := first.needle.value.hits[0]
	return &hit
}

// Safe returns how many of the bytes written so far may be passed on: all of them
// except the longest suffix that may be the beginning of a secret.
//
// A sender who sees what is passed on could find out a value character by character. So of
// a value that the sender does not have, the first three quarters are not held back, which
// nobody guesses at once. Safe is then less than before when the last quarter begins.
func (s *Scanner) Safe() int { return int(s.engine.n) - s.engine.held() }
