// SPDX-License-Identifier: Apache-2.0

package needle

import (
	"cmp"
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
	filter  []uint64 // one bit for each hash of four bytes
	shift   uint
}

type start struct {
	text   uint32 // the four characters, the first one in the most significant byte
	needle *needle
}

const (
	// filterRatio is how many bits the filter has for each entry, if it may grow that
	// large. With 128 bits, fewer than one in a hundred other texts pass.
	filterRatio   = 128
	maxFilterBits = 18 // 32 KiB
	multiplier    = 0x9E3779B1
)

func newStarts(needles []*needle) starts {
	s := starts{two: make([]uint64, 1<<16/64)}
	for _, n := range needles {
		texts := []uint32{0}
		for i := range startLength {
			var longer []uint32
			for _, text := range texts {
				for _, c := range []byte(n.form.spellings(n.char(i))) {
					longer = append(longer, text<<8|uint32(c))
				}
			}
			texts = longer
		}
		for _, text := range texts {
			s.entries = append(s.entries, start{text: text, needle: n})
		}
	}
	slices.SortStableFunc(s.entries, func(a, b start) int { return cmp.Compare(a.text, b.text) })
	size := min(maxFilterBits, max(6, bits.Len(uint(filterRatio*len(s.entries)))))
	s.filter, s.shift = make([]uint64, 1<<size/64), uint(32-size)
	for _, e := range s.entries {
		s.one[e.text>>24] = true
		s.two[e.text>>16>>6] |= 1 << (e.text >> 16 & 63)
		h := s.hash(e.text)
		s.filter[h>>6] |= 1 << (h & 63)
	}
	return s
}

func (s *starts) hash(text uint32) uint32 { return text * multiplier >> s.shift }

// mayStart reports whether four bytes may be the start of a needle.
func (s *starts) mayStart(text uint32) bool {
	h := s.hash(text)
	return s.filter[h>>6]>>(h&63)&1 != 0
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
	return s.mayStart(text) && len(s.with(text, n)) > 0
}
