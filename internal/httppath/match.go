// SPDX-License-Identifier: Apache-2.0

package httppath

import "strings"

// A token is a character of a path in normal form, or one of those below. An escape is
// one character.
type token uint16

const (
	escaped token = 256 // plus the byte that is escaped

	one    token = 512 + iota // one character of a segment
	some                      // any characters of a segment, or none
	any                       // any characters, or none
	open                      // the next two tokens, or none of them
	inside                    // any characters that a slash ends
)

// maxTokens bounds the tokens of a pattern: a star may need two.
const maxTokens = 2 * MaxPatternLength

// match reports whether the glob matches the whole path. It follows all ways of
// matching at once, so that its time is bounded by the product of the two lengths.
func match(glob, path string) bool {
	// Most patterns fail at the text before their first star.
	literal := strings.IndexByte(glob, '*')
	if literal < 0 {
		return glob == path
	}
	if !strings.HasPrefix(path, glob[:literal]) {
		return false
	}
	var buf [maxTokens]token
	m := matcher{tokens: tokenize(buf[:0], glob, literal)}
	now, next := &places{}, &places{}
	m.enter(now, 0)
	for rest := path[literal:]; rest != "" && now.n > 0; {
		c, size := character(rest)
		rest = rest[size:]
		next.clear()
		for _, at := range now.list[:now.n] {
			m.step(next, int(at), c)
		}
		now, next = next, now
	}
	return now.has[len(m.tokens)]
}

// character returns the first character of text and the number of its bytes.
func character(text string) (token, int) {
	if text[0] == '%' && len(text) >= 3 {
		return escaped + token(unhex(text[1])<<4|unhex(text[2])), 3
	}
	return token(text[0]), 1
}

// tokenize appends the tokens of the glob from its first star on.
func tokenize(tokens []token, glob string, first int) []token {
	for i := first; i < len(glob); i++ {
		double := strings.HasPrefix(glob[i:], "**")
		switch {
		case double && glob[i-1] == '/' && strings.HasPrefix(glob[i+2:], "/"):
			tokens = append(tokens, open, inside)
			i += 2
		case double:
			tokens = append(tokens, any)
			i++
		case glob[i] == '*' && glob[i-1] == '/' && (i+1 == len(glob) || glob[i+1] == '/'):
			tokens = append(tokens, one, some)
		case glob[i] == '*':
			tokens = append(tokens, some)
		default:
			c, size := character(glob[i:])
			tokens = append(tokens, c)
			i += size - 1
		}
	}
	return tokens
}

// places is a set of positions in a list of tokens.
type places struct {
	list [maxTokens + 2]uint16
	has  [maxTokens + 2]bool
	n    int
}

func (p *places) add(at int) {
	if !p.has[at] {
		p.has[at] = true
		p.list[p.n] = uint16(at)
		p.n++
	}
}

func (p *places) clear() {
	for _, at := range p.list[:p.n] {
		p.has[at] = false
	}
	p.n = 0
}

type matcher struct{ tokens []token }

// enter adds the position, and those that are reached from it without a character.
func (m matcher) enter(to *places, at int) {
	for ; at < len(m.tokens); at++ {
		to.add(at)
		switch m.tokens[at] {
		case some, any:
		case open:
			to.add(at + 1)
			at++ // the position after both
		default:
			return
		}
	}
	to.add(at)
}

// step adds the positions that character c leads to.
func (m matcher) step(to *places, at int, c token) {
	if at == len(m.tokens) {
		return
	}
	switch t := m.tokens[at]; t {
	case one:
		if c != '/' {
			m.enter(to, at+1)
		}
	case some:
		if c != '/' {
			m.enter(to, at)
		}
	case any:
		m.enter(to, at)
	case open: // its ways out were added with it
	case inside:
		to.add(at)
		if c == '/' {
			m.enter(to, at+1)
		}
	default:
		if t == c {
			m.enter(to, at+1)
		}
	}
}
