// SPDX-License-Identifier: Apache-2.0

package needle_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"botbottle.dev/bottle-operator/internal/needle"
)

const token = `sk-ant-api03-Zm9v+YmFy/"quoted"\back&<amp>'=_0123456789`

func compile(values ...string) *needle.Set {
	var secrets []needle.Secret
	for i, v := range values {
		secrets = append(secrets, needle.Secret{Name: fmt.Sprintf("secret%d", i), Key: "key", Value: []byte(v)})
	}
	return needle.Compile(secrets)
}

// encodings returns the value as programs write it.
func encodings(t *testing.T, value string) map[string]string {
	marshalled, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	every := func(format string) string {
		var b strings.Builder
		for _, c := range []byte(value) {
			fmt.Fprintf(&b, format, c)
		}
		return b.String()
	}
	out := map[string]string{
		"plain":           value,
		"query":           url.QueryEscape(value),
		"query in lower":  strings.ToLower(url.QueryEscape(value[:1])) + url.QueryEscape(value[1:]),
		"path":            url.PathEscape(value),
		"every %XX":       every("%%%02X"),
		"every %xx":       every("%%%02x"),
		"hex":             hex.EncodeToString([]byte(value)),
		"HEX":             strings.ToUpper(hex.EncodeToString([]byte(value))),
		"JSON":            string(marshalled),
		"JSON with \\/":   strings.ReplaceAll(string(marshalled), "/", `\/`),
		"every \\u":       every(`\u%04x`),
		"every \\x":       every(`\x%02X`),
		"HTML":            html.EscapeString(value),
		"every &#":        every("&#%d;"),
		"every &#x":       every("&#x%X;"),
		"basic":           base64.StdEncoding.EncodeToString([]byte("user:" + value)),
		"wrapped base64":  wrap(base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", 50)+value)), "\n"),
		"wrapped in JSON": wrap(base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", 54)+value)), `\r\n`),
		"wrapped hex":     wrap(hex.EncodeToString([]byte(strings.Repeat("x", 36)+value)), "\r\n"),
		"base64 in query": url.QueryEscape(base64.StdEncoding.EncodeToString([]byte("\xff\xef\xfe" + value))),
		"first %":         "%" + hex.EncodeToString([]byte(value[:1])) + value[1:],
	}
	if !utf8.ValidString(value) { // JSON cannot hold it, and escapes are for ASCII
		for _, name := range []string{"JSON", "JSON with \\/", "every \\u", "HTML", "every &#", "every &#x"} {
			delete(out, name)
		}
	}
	for before := range 4 {
		for after := range 3 {
			all := []byte(strings.Repeat("\xff", before) + value + strings.Repeat("\xfe", after))
			out[fmt.Sprintf("base64 std %d %d", before, after)] = base64.StdEncoding.EncodeToString(all)
			out[fmt.Sprintf("base64 url %d %d", before, after)] = base64.RawURLEncoding.EncodeToString(all)
		}
	}
	return out
}

// wrap breaks lines as base64(1) does.
func wrap(text, lineBreak string) string {
	var b strings.Builder
	for len(text) > 76 {
		b.WriteString(text[:76] + lineBreak)
		text = text[76:]
	}
	return b.String() + text
}

// TestEncodings finds and masks a secret in each encoding, for each place at which the
// stream is cut in two.
func TestEncodings(t *testing.T) {
	for _, value := range []string{token, "0123456789abcdef", "\x00\x01\xff\xfe binary \x80\x81 value!", "a pass phrase with spaces", `\\\\\\\\\\\\\\\\\\\\`, "%25%25%25%25%25%25%25%25"} {
		set := compile("another secret of some length", value, "sk-ant-api03-Zm9v+Other")
		for name, encoded := range encodings(t, value) {
			text := "before " + encoded + " after"
			var want string
			for cut := 0; cut <= len(text); cut += 1 + cut/40 {
				scanner := set.NewScanner()
				first := scanner.Write([]byte(text[:cut]))
				safe := scanner.Safe()
				second := scanner.Write([]byte(text[cut:]))
				if (first == nil) == (second == nil) && first == nil {
					t.Fatalf("%q: %s, cut at %d: got no hit in %q", value, name, cut, text)
				}
				for _, hit := range []*needle.Hit{first, second} {
					if hit != nil && *hit != (needle.Hit{Name: "secret1", Key: "key"}) {
						t.Fatalf("%q: %s: got %+v", value, name, hit)
					}
				}
				got := read(t, set, iotest.HalfReader(io.MultiReader(strings.NewReader(text[:cut]), strings.NewReader(text[cut:]))))
				if want == "" {
					want = got
				}
				if got != want || len(got) != len(text) || !strings.Contains(got, "*****") {
					t.Fatalf("%q: %s, cut at %d: got %q, want %q", value, name, cut, got, want)
				}
				if begin := strings.IndexByte(got, '*'); first == nil && safe > begin {
					t.Fatalf("%q: %s, cut at %d: got %d safe bytes, but the secret begins at %d", value, name, cut, safe, begin)
				}
			}
			if begin, end := strings.IndexByte(want, '*'), strings.LastIndexByte(want, '*'); strings.Count(want, "*") != end-begin+1 {
				t.Errorf("%q: %s: got %q, want one row of asterisks", value, name, want)
			}
		}
	}
}

func read(t *testing.T, set *needle.Set, r io.Reader) string {
	t.Helper()
	out, err := io.ReadAll(set.NewMask(r))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestShortAndPassed(t *testing.T) {
	set := needle.Compile([]needle.Secret{
		{Name: "a", Key: "long", Value: []byte(" 0123456789abcdef\n")},
		{Name: "b", Key: "same", Value: []byte("0123456789abcdef")},
		{Name: "c", Key: "short", Value: []byte("hunter2")},
		{Name: "c", Key: "tiny", Value: []byte("tiny!")},
		{Name: "c", Key: "none", Value: []byte("abc")},
		{Name: "c", Key: "empty"},
	})
	for text, want := range map[string]*needle.Hit{
		"x0123456789abcdefx":          {Name: "a", Key: "long"},
		"hunter2 0123456789abcdef":    {Name: "a", Key: "long"},
		"say hunter2":                 {Name: "c", Key: "short", Short: true},
		"a tiny! one":                 {Name: "c", Key: "tiny", Short: true},
		"abc 0123456789abcde hunter":  nil,
		"dGlueSE= 74696e7921":         nil, // tiny! in base64 and in hex
		"aHVudGVyMg 68756e7465723 r2": {Name: "c", Key: "short", Short: true},
	} {
		got := set.NewScanner().Write([]byte(text))
		if (got == nil) != (want == nil) || got != nil && *got != *want {
			t.Errorf("%s: got %+v, want %+v", text, got, want)
		}
	}
	// A value is passed if any Secret with it is.
	if hit := set.NewScanner("x", "b").Write([]byte("hunter2 0123456789abcdef")); hit == nil || hit.Key != "short" {
		t.Errorf("got %+v, want only the value that is not passed", hit)
	}
	if got, want := set.MaskString("tiny! hunter2 0123456789abcdef"), "tiny! ******* ****************"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := set.MaskString("nothing"); got != "nothing" {
		t.Errorf("got %q", got)
	}
	for _, none := range []*needle.Set{nil, needle.Compile(nil)} {
		scanner := none.NewScanner()
		if hit := scanner.Write([]byte(token)); hit != nil || scanner.Safe() != len(token) || none.MaskString(token) != token || read(t, none, strings.NewReader(token)) != token {
			t.Errorf("got %v, want an empty set that finds nothing", hit)
		}
	}
}

// stepwise returns one byte of text at a time, and calls asked before each.
type stepwise struct {
	text  string
	at    int
	asked func(at int)
}

func (s *stepwise) Read(p []byte) (int, error) {
	s.asked(s.at)
	if s.at == len(s.text) {
		return 0, io.EOF
	}
	p[0] = s.text[s.at]
	s.at++
	return 1, nil
}

// TestMaskHoldsBackOnlyBeginnings checks each time when the mask asks for more that it
// has passed on all bytes that cannot belong to a secret, and no others.
func TestMaskHoldsBackOnlyBeginnings(t *testing.T) {
	values := []string{"abcdefgh", `"a%2Fb\`, "aaaaaaaaab"}
	set := compile(values...)
	for _, text := range []string{"data: abcdefg\n\nabcdefgh.", `"a%2Fb\"a%2F\u0062\\\\x`, "aaaaaaaaaaaaaaaabaaaaaaaaaa", "61626364\r\n65666768 616", "&#97;&#x62cdefgh", "YWJj\nZGVmZ2g="} {
		got := ""
		r := set.NewMask(&stepwise{text: text, asked: func(at int) {
			if want := at - held(values, text[:at]); len(got) != want {
				t.Errorf("after %q: got %d bytes, want %d", text[:at], len(got), want)
			}
		}})
		buf := make([]byte, 100)
		for {
			n, err := r.Read(buf)
			got += string(buf[:n])
			if err != nil {
				break
			}
		}
		if want := mask(values, text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestMaskReturnsErrors(t *testing.T) {
	broken := errors.New("broken")
	r := compile(token).NewMask(io.MultiReader(strings.NewReader("text sk-ant"), iotest.ErrReader(broken)))
	got, err := io.ReadAll(r)
	if !errors.Is(err, broken) || string(got) != "text sk-ant" {
		t.Errorf("got %q, %v", got, err)
	}
	if n, err := r.Read(nil); n != 0 || err != nil {
		t.Errorf("got %d, %v of an empty read", n, err)
	}
}

// TestMaskOfLongValues holds back more than the reader's buffer.
func TestMaskOfLongValues(t *testing.T) {
	var b strings.Builder
	for i := range 8000 {
		fmt.Fprintf(&b, "%d,", i)
	}
	value := b.String()
	set := compile(value)
	text := value[:30000] + "!" + value + "!" + value[:5000]
	for _, size := range []int{1, 7, 100, 1 << 16} {
		var got bytes.Buffer
		if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{set.NewMask(strings.NewReader(text))}, make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if want := strings.ReplaceAll(text, value, strings.Repeat("*", len(value))); got.String() != want {
			t.Errorf("buffer of %d: got %d bytes, which differ", size, got.Len())
		}
	}
}
