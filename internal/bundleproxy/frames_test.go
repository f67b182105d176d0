// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"botbottle.dev/bottle-operator/internal/brokerfile"
	"botbottle.dev/bottle-operator/internal/egress"
)

// frame returns a client's frame of a WebSocket.
func frame(first byte, payload string) []byte {
	out := []byte{first}
	switch n := len(payload); {
	case n < 126:
		out = append(out, 0x80|byte(n))
	case n < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, 0x80|126), uint16(n))
	default:
		out = binary.BigEndian.AppendUint64(append(out, 0x80|127), uint64(n))
	}
	key := [4]byte{byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())}
	out = append(out, key[:]...)
	for i := range len(payload) {
		out = append(out, payload[i]^key[i%4])
	}
	return out
}

func newTestFilter() *frameFilter {
	x := &exchange{rule: &egress.HTTPRule{}, secrets: newSecrets([]brokerfile.Secret{{Secret: "env", Key: "long", Value: []byte(known)}})}
	return newFrameFilter(x)
}

// TestFrameFilter checks that a known secret in a guest's messages is found however its
// frames and writes are cut, that nothing of it passes before, and that everything else
// passes unchanged and is not kept longer than to the end of its message.
func TestFrameFilter(t *testing.T) {
	const text, more, final, ping = 0x01, 0x00, 0x80, 0x89
	big := string(bytes.Repeat([]byte("some text "), 10_000))
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	for name, tt := range map[string]struct {
		stream []byte
		denied bool
		passes int // bytes that pass at most, if denied
	}{
		"harmless":           {join(frame(text|final, "hello"), frame(ping, "x"), frame(0x82, big), frame(text|final, ""), frame(0x88, "")), false, 0},
		"begins like one":    {join(frame(text|final, "a "+known[:12]), frame(text|final, "other")), false, 0},
		"in pieces, no end":  {join(frame(text, known[:12]), frame(ping, ""), frame(more|final, "other")), false, 0},
		"two messages":       {join(frame(text|final, known[:12]), frame(text|final, known[12:])), false, 0},
		"plain":              {frame(text|final, "x "+known), true, 8},
		"large":              {frame(0x82, big+known), true, len(big) + 14},
		"fragments":          {join(frame(text, "x"+known[:5]), frame(more, known[5:9]), frame(more|final, known[9:])), true, 7},
		"a ping in between":  {join(frame(text, "x"+known[:5]), frame(ping, "y"), frame(more|final, known[5:])), true, 7},
		"in a ping":          {frame(ping, known), true, 6},
		"empty in between":   {join(frame(text, known[:5]), frame(more, ""), frame(more, ""), frame(more|final, known[5:])), true, 6},
		"later message":      {join(frame(text|final, "hello"), frame(text|final, known)), true, 17},
		"without a mask":     {append([]byte{text | final, byte(len(known))}, known...), true, 2},
		"endless empty ones": {join(frame(text, known[:5]), bytes.Repeat(frame(more, ""), maxHeldFrames/6+2)), true, 6},
	} {
		for _, size := range []int{1, 3, 1 << 30} {
			f := newTestFilter()
			if size < 1<<20 && len(tt.stream) > 1<<20 {
				continue
			}
			var passed []byte
			denied := false
			for rest := tt.stream; len(rest) > 0 && !denied; {
				n := min(size, len(rest))
				out, d := f.write(rest[:n])
				rest, denied = rest[n:], d != nil
				passed = append(passed, out...)
				if !denied {
					f.drop(len(out))
				}
			}
			if denied != tt.denied {
				t.Errorf("%s, writes of %d: got denied %v, want %v", name, size, denied, tt.denied)
			}
			if !tt.denied && !bytes.Equal(passed, tt.stream) {
				t.Errorf("%s, writes of %d: got %d bytes passed, want all %d unchanged", name, size, len(passed), len(tt.stream))
			}
			if tt.denied && (len(passed) > tt.passes || !bytes.HasPrefix(tt.stream, passed)) {
				t.Errorf("%s, writes of %d: got %d bytes passed, want at most %d", name, size, len(passed), tt.passes)
			}
		}
	}
}
