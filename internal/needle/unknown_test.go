// SPDX-License-Identifier: Apache-2.0

package needle_test

import (
	"encoding/base64"
	"encoding/hex"
	"testing"

	"botbottle.dev/bottle-operator/internal/needle"
)

// TestUnknownValuesAreNotGuessed: whoever sees which beginnings are held back can find out
// a value character by character.
func TestUnknownValuesAreNotGuessed(t *testing.T) {
	const value = "sk-planted-0123456789abcdefghijk"
	for name, text := range map[string]string{
		"plain": value, "hex": hex.EncodeToString([]byte(value)), "base64": base64.StdEncoding.EncodeToString([]byte(value)),
		"percent": "%73%6b-" + value[3:], "JSON": `\u0073k-` + value[3:],
	} {
		for _, unknown := range []bool{true, false} {
			s := needle.Compile([]needle.Secret{{Name: "s", Key: "k", Value: []byte(value), Unknown: unknown}}).NewScanner()
			early, late, found := 0, 0, false
			for i := range len(text) {
				found = s.Write([]byte{text[i]}) != nil || found
				switch held := i + 1 - s.Safe(); {
				case held > 0 && i < len(text)/2:
					early++
				case held > 0:
					late++
				}
			}
			if !found || unknown != (early == 0) || late == 0 {
				t.Errorf("%s, unknown %t: found %t, held back %d times in the first half and %d times in the second", name, unknown, found, early, late)
			}
		}
	}
}
