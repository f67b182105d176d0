// SPDX-License-Identifier: Apache-2.0

package needle

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
)

// startLength is the number of characters at the beginning of a needle that is looked
// up. Every needle has at least as many.
const startLength = 4

// starts knows how needles begin: one entry for each unescaped spelling of the first
// four characters.
type starts struct {
	entries []start // sorted by text
	one     [256]bool
	two     []uint64 // one bit for each pair of bytes
	first   filter   // the first four characters of each needle
	any     filter   // each four of the first groupLength+3; nil if a needle has fewer
}

type start struct {
	text   uint32 // the four characters, the first one in the most significant byte
	needle *needle
}

// known reports whether the sender of a stream has the value.
func (s start) known() bool { return !s.needle.value.unknown }

func newStarts(needles []*needle) starts {
	s := starts{two: make([]uint64, 1<<16/64)}
	var anywhere []uint32
	groups := true
	for _, n := range needles {
		for _, text := range n.spelled(0) {
			s.entries = append(s.entries, start{text: text, needle: n})
			s.one[text>>24] = true
			s.two[text>>16>>6] |= 1 << (text >> 16 & 63)
		}
		if groups = groups && n.n >= startLength+groupLength-1; groups {
			for at := range groupLength {
				anywhere = append(anywhere, n.spelled(at)...)
			}
		}
	}
	slices.SortStableFunc(s.entries, func(a, b start) int { return cmp.Compare(a.text, b.text) })
	s.first = newFilter(len(s.entries))
	for _, e := range s.entries {
		s.first.add(e.text)
	}
	if groups {
		s.any = newFilter(len(anywhere))
		for _, text := range anywhere {
			s.any.add(text)
		}
	}
	return s
}

// spelled returns the unescaped spellings of the four characters from place at on.
func (n *needle) spelled(at int) []uint32 {
	texts := []uint32{0}
	for i := at; i < at+startLength; i++ {
		var longer []uint32
		for _, text := range texts {
			for _, c := range []byte(n.form.spellings(n.char(i))) {
				longer = append(longer, text<<8|uint32(c))
			}
		}
		texts = longer
	}
	return texts
}

// groupLength is the number of bytes that skipGroups looks at at a time.
const groupLength = 4

// skipGroups skips groups of bytes of which none may complete the start of a needle,
// and returns the index after the last group. At least startLength bytes precede i.
//
// If a byte of a group completes the start of a needle, then the last four bytes of
// the group are among the first seven of that needle, unless an escape or a line break
// interrupts them. So one look into the filter is enough for each group.
func (s *starts) skipGroups(p []byte, i int) int {
	if s.any.bits == nil {
		return i
	}
	filter := s.any
	for ; i+groupLength <= len(p); i += groupLength {
		group := p[i : i+groupLength : i+groupLength]
		if filter.mayContain(binary.BigEndian.Uint32(group)) {
			break
		}
		if (special[group[0]] || special[group[1]] || special[group[2]] || special[group[3]]) && !s.harmless(p, i) {
			break
		}
	}
	return i
}

// harmless reports whether stop is false for each byte of the group that begins at i.
// Where a special character interrupts a needle, the look at the whole group is not
// enough.
func (s *starts) harmless(p []byte, i int) bool {
	last := binary.BigEndian.Uint32(p[i-startLength:])
	for end := i + groupLength; i < end; i++ {
		if s.stop(p, i, last) {
			return false
		}
		last = last<<8 | uint32(p[i])
	}
	return true
}

// stop reports whether byte i, after the last four bytes, may complete the start of a
// needle, or may interrupt the first characters of one.
func (s *starts) stop(p []byte, i int, last uint32) bool {
	b := p[i]
	if s.first.mayContain(last<<8 | uint32(b)) {
		return true
	}
	return special[b] && (i+1 == len(p) || s.mayInterrupt(last, b, p[i+1]))
}

// mayInterrupt reports whether the special character b, after the last bytes and
// followed by next, may be in the middle of the first characters of a needle. It knows
// the two most frequent kinds, which are nearly always harmless: line breaks and short
// escapes such as \".
func (s *starts) mayInterrupt(last uint32, b, next byte) bool {
	char := next
	switch {
	case b == '\\':
		if char = shortMeans[next]; char == 0 || s.one[char] || isBreak(char) && s.begins(last, 1) {
			return true
		}
	case !isBreak(b):
		return true
	case special[next]:
		return s.begins(last, 1) || s.begins(last, 2) || s.begins(last>>8, 2)
	}
	// One, two or three characters may precede. Three begin as two do.
	return s.begins(last<<8|uint32(char), 2) || s.begins(last, 2) || s.begins(last>>8, 2)
}

// filter is a set of texts of four bytes that may contain others, too.
type filter struct {
	bits  []uint64
	shift uint8
}

const (
	// filterRatio is how many bits a filter has for each text, if it may grow that
	// large: fewer than one in a hundred other texts pass.
	filterRatio   = 128
	maxFilterBits = 18 // 32 KiB
	multiplier    = 0x9E3779B1
)

func newFilter(texts int) filter {
	size := min(maxFilterBits, max(6, bits.Len(uint(filterRatio*texts))))
	return filter{bits: make([]uint64, 1<<size/64), shift: uint8(32 - size)}
}

func (f *filter) add(text uint32) {
	h := text * multiplier >> f.shift
	f.bits[h>>6] |= 1 << (h & 63)
}

func (f *filter) mayContain(text uint32) bool {
	h := text * multiplier >> (f.shift & 31)
	return f.bits[h>>6]>>(h&63)&1 != 0
}

// with returns the entries that begin with the first n characters of text, where the
// last of these is in the least significant byte.
func (s *starts) with(text uint32, n int) []start {
	if n == 0 {
		return s.entries
	}
	low := uint(8 * (startLength - n))
	text &= 1<<(8*n) - 1
	begin, _ := slices.BinarySearchFunc(s.entries, text, func(e start, t uint32) int { return cmp.Compare(e.text>>low, t) })
	end := begin
	for end < len(s.entries) && s.entries[end].text>>low == text {
		end++
	}
	return s.entries[begin:end]
}

// begins reports whether a needle begins with the n characters, one to four, at the
// end of text.
func (s *starts) begins(text uint32, n int) bool {
	switch n {
	case 1:
		return s.one[text&0xff]
	case 2:
		return s.two[text&0xffff>>6]>>(text&63)&1 != 0
	case 3:
		pair := text >> 8 & 0xffff
		return s.two[pair>>6]>>(pair&63)&1 != 0 && len(s.with(text, n)) > 0
	}
	return s.first.mayContain(text) && len(s.with(text, n)) > 0
}
