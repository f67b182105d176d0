// SPDX-License-Identifier: Apache-2.0

package needle_test

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/needle"
)

// alphabet makes values that resemble themselves, each other, and escapes.
const alphabet = "abAB01+/ %\\&#x\"u;n2\n"

// fuzzedValues returns up to three values.
func fuzzedValues(data []byte) []string {
	var values []string
	for part := range bytes.SplitSeq(data[:min(len(data), 60)], []byte{0xff}) {
		var b strings.Builder
		for _, c := range part[:min(len(part), 28)] {
			b.WriteByte(alphabet[int(c)%len(alphabet)])
		}
		if value := strings.TrimSpace(b.String()); len(value) >= needle.MinLength && len(values) < 3 {
			values = append(values, value)
		}
	}
	return values
}

// fuzzedText follows a script that writes values in their forms, one character at a
// time, each spelled in one of its ways, and that makes mistakes.
func fuzzedText(values []string, script []byte) string {
	var forms []reference
	for _, value := range values {
		forms = append(forms, references(value)...)
	}
	var b strings.Builder
	form, at := 0, 0
	for i := 0; i+1 < len(script) && b.Len() < 160; i += 2 {
		arg := int(script[i+1])
		switch op := script[i] % 16; {
		case len(forms) == 0 || op == 0:
			b.WriteByte(alphabet[arg%len(alphabet)])
		case op == 1:
			form, at = arg%len(forms), arg/len(forms)%4
		case op == 2:
			b.WriteString(lineBreaks[arg%len(lineBreaks)])
		default:
			f := forms[form%len(forms)]
			for range 1 + int(op)/4 {
				texts := f.texts[at%len(f.texts)]
				choice := 0 // mostly as it is
				if op > 12 {
					choice = arg % len(texts)
				}
				b.WriteString(texts[choice])
				if at++; at == len(f.texts) {
					form, at = form+1, 0
					break
				}
			}
		}
	}
	return b.String()[:min(160, b.Len())]
}

// chunks cuts text into chunks whose lengths the bytes of cuts say: half of them are
// short, and in the others, whole blocks are looked at.
func chunks(text string, cuts []byte) []string {
	var out []string
	for i := 0; text != ""; i++ {
		n := len(text)
		if len(cuts) > 0 {
			n = int(cuts[i%len(cuts)])
			if n < 128 {
				n %= 16
			}
			n = min(len(text), 1+n)
		}
		out = append(out, text[:n])
		text = text[n:]
	}
	return out
}

type chunkReader struct{ chunks []string }

func (r *chunkReader) Read(p []byte) (int, error) {
	if len(r.chunks) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.chunks[0])
	if r.chunks[0] = r.chunks[0][n:]; r.chunks[0] == "" {
		r.chunks = r.chunks[1:]
	}
	return n, nil
}

var fuzzSeeds = []struct {
	values string
	script []byte
}{
	{"\x00\x01\x02\x03\x04\x05\x06\x07\xff\x00\x00\x00\x00\x00\x00\x00\x01", bytes.Repeat([]byte{3, 0}, 40)},
	{"\x09\x04\x05\x09\x04\x05\x09\x04\x05", bytes.Repeat([]byte{13, 7, 15, 30, 0, 9}, 20)},
	{"\x0a\x0a\x0a\x0a\x0a\x0a\x0a\x0a", bytes.Repeat([]byte{14, 1, 13, 5}, 30)},
	{"\x0b\x0c\x0d\x12\x10\x0b\x0c\x0d", bytes.Repeat([]byte{15, 40, 13, 50, 2, 3}, 30)},
	{"\x01\x02\x03\x04\x05\x06\x07\x08\x09\xff\x02\x03\x04\x05\x06\x07", bytes.Repeat([]byte{1, 2, 15, 0, 12, 0, 2, 1}, 30)},
	{"\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x00\x02\x04\x06\x08\x01\x03\x05\x07\x09\x00\x03", append(bytes.Repeat([]byte{0, 1}, 17), bytes.Repeat([]byte{15, 0, 12, 2, 11, 5}, 20)...)},
	{"\x08\x08\x01\x08\x02\x06\x06\x07\x07", append([]byte{1, 3}, bytes.Repeat([]byte{12, 0, 13, 1}, 40)...)},
}

// FuzzMask compares the mask of a stream in chunks with a slow implementation, and
// checks each time when it asks for more what it has passed on.
func FuzzMask(f *testing.F) {
	for _, s := range fuzzSeeds {
		f.Add([]byte(s.values), s.script, []byte{0, 3, 200}, uint8(0))
		f.Add([]byte(s.values), s.script, []byte{}, uint8(9))
	}
	f.Fuzz(func(t *testing.T, data, script, cuts []byte, size uint8) {
		clear(known)
		values := fuzzedValues(data)
		text := fuzzedText(values, script)
		want := mask(values, text)
		var got bytes.Buffer
		read := 0
		r := set(values).NewMask(&watched{chunkReader{chunks(text, cuts)}, func(n int) {
			if safe := read - held(values, text[:read]); got.Len() != safe {
				t.Fatalf("values %q, after %q: got %d bytes, want %d", values, text[:read], got.Len(), safe)
			}
			read += n
		}})
		if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, r, make([]byte, 1+int(size))); err != nil {
			t.Fatal(err)
		}
		if got.String() != want {
			t.Fatalf("values %q, text %q: got %q, want %q", values, text, got.String(), want)
		}
		if once := set(values).MaskString(text); once != want {
			t.Fatalf("values %q, text %q: got %q as one string, want %q", values, text, once, want)
		}
	})
}

// watched calls read before it returns n bytes.
type watched struct {
	r    chunkReader
	read func(n int)
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.read(n)
	return n, err
}

func set(values []string) *needle.Set { return compile(values...) }

// FuzzScanner checks that a scanner finds the same in any chunks, that it finds what a
// slow implementation finds, and that no byte of a secret is safe before it is found.
func FuzzScanner(f *testing.F) {
	for _, s := range fuzzSeeds {
		f.Add([]byte(s.values), s.script, []byte{0, 3, 200})
		f.Add([]byte(s.values), s.script, []byte{1})
	}
	f.Fuzz(func(t *testing.T, data, script, cuts []byte) {
		clear(known)
		values := fuzzedValues(data)
		text := fuzzedText(values, script)
		long := slices.ContainsFunc(values, func(v string) bool { return len(v) >= needle.ShortLength && contains(v, text) })
		short := slices.ContainsFunc(values, func(v string) bool { return len(v) < needle.ShortLength && contains(v, text) })
		first := set(values).NewScanner().Write([]byte(text))
		if (first != nil) != (long || short) || first != nil && first.Short == long {
			t.Fatalf("values %q, text %q: got %+v, want long %t, short %t", values, text, first, long, short)
		}
		scanner := set(values).NewScanner()
		foundLong, foundShort := false, false
		read, safe := 0, 0
		for _, chunk := range chunks(text, cuts) {
			hit := scanner.Write([]byte(chunk))
			read += len(chunk)
			if hit != nil {
				foundLong, foundShort = foundLong || !hit.Short, foundShort || hit.Short
			}
			if want := read - held(values, text[:read]); scanner.Safe() != want {
				t.Fatalf("values %q, after %q: got %d safe bytes, want %d", values, text[:read], scanner.Safe(), want)
			}
			if !foundLong {
				safe = scanner.Safe()
			}
		}
		if foundLong != long || foundShort != short && !long {
			t.Fatalf("values %q, text %q in chunks: got long %t, short %t, want %t, %t", values, text, foundLong, foundShort, long, short)
		}
		// What was passed on before the hit contains no byte of the first long secret
		// to end.
		if end, begin := firstLong(values, text); long && safe > begin {
			t.Fatalf("values %q, text %q: got %d safe bytes before the hit, but a secret is at %d to %d", values, text, safe, begin, end)
		}
	})
}

// firstLong returns the end of the long value that ends first, and the earliest
// beginning of those that end there.
func firstLong(values []string, text string) (end, begin int) {
	end = len(text) + 1
	for _, value := range values {
		if len(value) < needle.ShortLength {
			continue
		}
		for _, r := range references(value) {
			for start := range len(text) {
				ends, _ := r.follow(text[start:])
				for _, n := range ends {
					switch at := start + n; {
					case at < end:
						end, begin = at, start
					case at == end:
						begin = min(begin, start)
					}
				}
			}
		}
	}
	return end, begin
}
