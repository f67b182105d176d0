// SPDX-License-Identifier: Apache-2.0

package needle

import (
	stdbase64 "encoding/base64"
	stdhex "encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// FuzzSkip checks that an engine that skips bytes finds and holds the same as one that
// takes each byte as a step.
func FuzzSkip(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		values := randomValues(random)
		text := randomText(random, values)
		var secrets []Secret
		for _, v := range values {
			secrets = append(secrets, Secret{Name: "a", Value: []byte(v)})
		}
		set := Compile(secrets)
		steps, skips := set.newEngine(), set.newEngine()
		for rest := text; rest != ""; {
			n := min(len(rest), 1+random.IntN([]int{8, 64, 1024}[random.IntN(3)]))
			for _, b := range []byte(rest[:n]) {
				steps.step(b)
			}
			skips.write([]byte(rest[:n]))
			rest = rest[n:]
			if got, want := skips.held(), steps.held(); got != want {
				t.Fatalf("values %q, after %q: got %d bytes held, want %d", values, text[:len(text)-len(rest)], got, want)
			}
		}
		if got, want := places(skips.found), places(steps.found); !slices.Equal(got, want) {
			t.Fatalf("values %q, text %q: got %v, want %v", values, text, got, want)
		}
	})
}

func places(found []occurrence) []string {
	var out []string
	for _, o := range found {
		out = append(out, fmt.Sprintf("%d-%d, %q, form %d", o.start, o.end, o.needle.value.text, o.needle.form))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// randomValues returns up to three values, of which all are long more often than not.
func randomValues(random *rand.Rand) []string {
	characters := []string{"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_", "ab%\\&\n\r\"+/ 0"}[random.IntN(2)]
	shortest := []int{MinLength, 20, 30}[random.IntN(3)]
	var values []string
	for range 1 + random.IntN(3) {
		var b strings.Builder
		for b.Len() < shortest || random.IntN(30) > 0 && b.Len() < 100 {
			b.WriteByte(characters[random.IntN(len(characters))])
		}
		if v := strings.TrimSpace(b.String()); len(v) >= MinLength {
			values = append(values, v)
		}
	}
	return values
}

// randomText returns a text with values in their forms, beginnings of them, pieces of
// them, and what surrounds them.
func randomText(random *rand.Rand, values []string) string {
	var b strings.Builder
	for b.Len() < 3000 && len(values) > 0 {
		piece := values[random.IntN(len(values))]
		switch random.IntN(4) {
		case 0:
			piece = stdbase64.StdEncoding.EncodeToString([]byte("ab"[:random.IntN(3)] + piece + "c"))
		case 1:
			piece = stdhex.EncodeToString([]byte(piece))
		}
		if random.IntN(3) == 0 {
			piece = piece[:1+random.IntN(len(piece))]
		}
		piece = disguise(random, piece)
		for range random.IntN(60) {
			b.WriteByte("etaoin shrdlu.,{}\"%\\&\n\r"[min(random.IntN(40), 22)])
		}
		b.WriteString(piece)
	}
	return b.String()
}

// disguise escapes and interrupts a text in some places.
func disguise(random *rand.Rand, text string) string {
	var b strings.Builder
	usual := random.IntN(2) * 30 // few in a row, or some anywhere
	for i, c := range []byte(text) {
		one := string([]byte{c})
		switch random.IntN(8 + usual) {
		case 0:
			one = fmt.Sprintf("%%%02x", c)
		case 1:
			one = url.QueryEscape(one)
		case 2:
			one = html.EscapeString(one)
		case 3:
			encoded, _ := json.Marshal(one)
			one = string(encoded[1 : len(encoded)-1])
		case 4:
			one = fmt.Sprintf("\\u00%02x", c)
		case 5:
			if i > 0 {
				one = []string{"\n", "\r\n", "\\n", "%0a"}[random.IntN(4)] + one
			}
		}
		b.WriteString(one)
	}
	return b.String()
}
