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
	two     *[1 << 16 / 64]uint64 // one bit for each pair of bytes
	first   filter                // the first four characters of each needle
	any     filter                // each four characters of each needle that begin at a place before stride
	stride  int                   // a power of two, at most blockLength
	chars   [256]bool             // the characters of all needles
}

type start struct {
	text   uint32 // the four characters, the first one in the most significant byte
	needle *needle
}

// known reports whether the sender of a stream has the value.
func (s start) known() bool { return !s.needle.value.unknown }

func newStarts(needles []*needle) starts {
	s := starts{two: new([1 << 16 / 64]uint64), stride: blockLength}
	for _, n := range needles {
		for _, text := range n.spelled(0) {
			s.entries = append(s.entries, start{text: text, needle: n})
			s.one[text>>24] = true
			s.two[text>>16>>6] |= 1 << (text >> 16 & 63)
		}
		for i := range n.n {
			for _, c := range []byte(n.form.spellings(n.char(i))) {
				s.chars[c] = true
			}
		}
		for n.n < startLength+s.stride-1 {
			s.stride /= 2
		}
	}
	slices.SortStableFunc(s.entries, func(a, b start) int { return cmp.Compare(a.text, b.text) })
	s.first = newFilter(len(s.entries))
	for _, e := range s.entries {
		s.first.add(e.text)
	}
	for s.stride > 1 && len(s.entries)*s.stride > maxFilterTexts {
		s.stride /= 2
	}
	s.any = newFilter(len(s.entries) * s.stride)
	for _, n := range needles {
		for at := range s.stride {
			for _, text := range n.spelled(at) {
				s.any.add(text)
			}
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

// blockLength is the number of bytes that skipBlocks looks at at a time.
const blockLength = 16

// skipBlocks skips blocks of bytes of which none may complete the start of a needle, or
// interrupt the first characters of one, and returns the index after the last block. At
// least startLength bytes precede i.
//
// If a byte completes the start of a needle, then any four bytes that follow within the
// next stride bytes belong to that needle too, unless an escape or a line break
// interrupts it. So it is enough to look into the filter once for each stride bytes, and
// at the four bytes before each special character.
func (s *starts) skipBlocks(p []byte, i int) int {
	filter := s.any
	for ; i+blockLength < len(p); i += blockLength {
		block := p[i : i+blockLength : i+blockLength]
		low, high := binary.LittleEndian.Uint64(block), binary.LittleEndian.Uint64(block[8:])
		for at := s.stride - startLength; at <= blockLength-startLength; at += s.stride {
			if filter.mayContain(binary.BigEndian.Uint32(p[i+at:])) {
				return i
			}
		}
		lowSpecial, highSpecial := mayBeSpecial(low), mayBeSpecial(high)
		if lowSpecial|highSpecial != 0 && !(s.harmless(p, i, lowSpecial) && s.harmless(p, i+8, highSpecial)) {
			return i
		}
	}
	return i
}

const eachByte = 0x0101010101010101

// mayBeSpecial returns the high bit of each byte of eight that is a special character,
// and of a few others: those from $ to ', and control characters.
func mayBeSpecial(eight uint64) uint64 {
	symbol := eight&(0x7c*eachByte) ^ '$'*eachByte
	control := eight&(0x78*eachByte) ^ '\b'*eachByte
	backslash := eight&(0x7f*eachByte) ^ '\\'*eachByte
	// Adding sets the high bit of each byte that is not 0.
	other := (symbol + 0x7f*eachByte) & (control + 0x7f*eachByte) & (backslash + 0x7f*eachByte)
	return ^(other | eight) & (0x80 * eachByte)
}

// harmless reports whether none of the special characters among the eight bytes at i,
// whose places are in the result of mayBeSpecial, needs a closer look.
func (s *starts) harmless(p []byte, i int, places uint64) bool {
	for ; places != 0; places &= places - 1 {
		at := i + bits.TrailingZeros64(places)/8
		b := p[at]
		if !special[b] || s.strange(p[at-1], b, p[at+1]) {
			continue
		}
		last := binary.BigEndian.Uint32(p[at-startLength:])
		if s.any.mayContain(last) || s.mayInterrupt(last, b, p[at+1]) {
			return false
		}
	}
	return true
}

// strange reports whether the special character b is a line break after a character that
// is in no needle, or begins a short escape that stands for one. (After another escape or
// line break in a needle, the engine does not skip.)
func (s *starts) strange(before, b, next byte) bool {
	if b == '\\' {
		char := shortMeans[next]
		return char != 0 && !s.chars[char] && !(isBreak(char) && s.chars[before])
	}
	return isBreak(b) && !s.chars[before]
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
	case isBreak(b):
		if special[next] {
			return s.one[last&0xff] || s.pair(last) || s.pair(last>>8)
		}
	case b == '\\':
		if char = shortMeans[next]; char == 0 || s.one[char] || isBreak(char) && s.one[last&0xff] {
			return true
		}
	default:
		return true
	}
	// One, two or three characters may precede. Three begin as two do.
	return s.pair(last<<8|uint32(char)) || s.pair(last) || s.pair(last>>8)
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
	// maxFilterTexts is how many texts a filter of that size should have at most.
	maxFilterTexts = 1 << (maxFilterBits - 3)
	multiplier     = 0x9E3779B1
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

// pair reports whether a needle begins with the last two characters of text.
func (s *starts) pair(text uint32) bool { return s.two[text&0xffff>>6]>>(text&63)&1 != 0 }

// begins reports whether a needle begins with the n characters, one to four, at the
// end of text.
func (s *starts) begins(text uint32, n int) bool {
	switch n {
	case 1:
		return s.one[text&0xff]
	case 2:
		return s.pair(text)
	case 3:
		return s.pair(text>>8) && len(s.with(text, n)) > 0
	}
	return s.first.mayContain(text) && len(s.with(text, n)) > 0
}
