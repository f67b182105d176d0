// SPDX-License-Identifier: Apache-2.0

package smolfile_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/smolfile"
)

var nameRule = regexp.MustCompile(`\A[A-Za-z_][A-Za-z0-9_]*\z`)

// FuzzRenderValue checks that the file preserves every value that an environment
// can carry. Render must reject every other value, without including it in the
// error.
func FuzzRenderValue(f *testing.F) {
	for _, seed := range []string{"", "plain", "a=b", "it's", `"`, `\`, `'"'`, "'''", `"""`, "\n", "\r\n", "\t", "a\x00b",
		"\x01\x08\x0c\x1b\x1f\x7f", "\u0085\u2028\u2029\u00a0", "\ufeffx", "😀", "\xff", "\xed\xa0\x80", "\uffff\U0010ffff", " x ",
		"]\n[network]\nallow_cidrs = ['0.0.0.0/0']\n", "']\nnet = true\n#", "# comment", `\u0041`, "{a = 1}", "1979-05-27", "inf"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		s := smolfile.Smolfile{Env: map[string]string{"A": "before", "NAME": value, "Z": "after"}, BundleIP: bundleIP}
		out, err := smolfile.Render(s)
		valid := utf8.ValidString(value) && !strings.Contains(value, "\x00") && len(value) <= 131072-len("NAME=\x00")
		if valid != (err == nil) {
			t.Fatalf("got error %v, want success: %v", err, valid)
		}
		if err != nil {
			if len(value) > 8 && strings.Contains(err.Error(), value) {
				t.Fatalf("got %q, want an error without the value", err)
			}
			return
		}
		checkDocument(t, s, out)
		again, err := smolfile.Render(s)
		if err != nil || !bytes.Equal(out, again) {
			t.Fatalf("rendered again: got %q, %v, want %q", again, err, out)
		}
	})
}

// FuzzRender checks that, whatever the input, a rendered file has only the
// allowed keys and the one destination, and parses back to the input.
func FuzzRender(f *testing.F) {
	f.Add("A", "1", "B", "2", uint32(0xc0a82c02), int32(0), int64(0), int64(0), int64(0))
	f.Add("A_", "x", "A0", "y", uint32(0x0a400002), int32(16), int64(64), int64(1), int64(1<<40))
	f.Add("A=B", "1", "", "2", uint32(0), int32(-1), int64(-1), int64(-1), int64(-1))
	f.Add("localhost_only", "true", "gvproxy", "unixgram", uint32(0x7f000001), int32(17), int64(63), int64(0), int64(0))
	f.Add("net", "'\nnet = true", "image", "\"\nimage = \"x\"", uint32(0xc0a82c02), int32(1), int64(1<<32), int64(1), int64(1))
	f.Fuzz(func(t *testing.T, name1, value1, name2, value2 string, ip uint32, cpus int32, memory, storage, overlay int64) {
		s := smolfile.Smolfile{
			Env:      map[string]string{name1: value1, name2: value2},
			BundleIP: netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, ip))),
			Size:     machinesize.Size{CPUs: cpus, MemoryMiB: memory, StorageGiB: storage, OverlayGiB: overlay},
		}
		out, err := smolfile.Render(s)
		if err != nil {
			var v *guestenv.VarError
			namesValid := nameRule.MatchString(name1) && nameRule.MatchString(name2)
			sizesValid := ip != 0 && cpus >= 0 && cpus <= 16 && storage >= 0 && overlay >= 0 && (memory == 0 || memory >= 64 && memory < 1<<32)
			if !errors.As(err, &v) && sizesValid || errors.As(err, &v) && namesValid && errors.Is(err, guestenv.ErrName) {
				t.Fatalf("got %v, want no error", err)
			}
			return
		}
		checkDocument(t, s, out)
	})
}
