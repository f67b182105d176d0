// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/brokerfile"
	"botbottle.dev/bottle-operator/internal/egress"
)

func lendingExchange() *exchange {
	return &exchange{
		p: &proxy{log: newDecisionLog(nil)}, rule: &egress.HTTPRule{}, cancel: func(error) {},
		secrets: newSecrets([]brokerfile.Secret{{Secret: "model", Key: "token", Value: []byte(planted), Credential: true}}),
	}
}

// TestCredentialIsNotGuessed: a guest that sends a body or a message byte by byte to a host
// of its own must not learn from what arrives how a credential begins. All of the
// credential never passes.
func TestCredentialIsNotGuessed(t *testing.T) {
	pr, pw := io.Pipe()
	body := newRequestBody(lendingExchange(), &http.Request{Body: pr})
	go func() {
		for i := range len(planted) {
			_, _ = pw.Write([]byte{planted[i]})
		}
		_ = pw.Close()
	}()
	var passed []byte
	for buf := make([]byte, 1); ; {
		n, err := body.Read(buf)
		passed = append(passed, buf[:n]...)
		if err != nil {
			if !errors.Is(err, errEnded) {
				t.Errorf("body: got %v, want that the request was ended", err)
			}
			break
		}
	}
	if len(passed) < len(planted)/2 || len(passed) > len(planted)-len(planted)/4 {
		t.Errorf("body: got %d bytes of %d passed, want half of them without delay, and not all", len(passed), len(planted))
	}

	// A frame for each byte, with a ping after each.
	filter, stream, denied := newFrameFilter(lendingExchange()), 0, false
	var sent []byte
	for i := 0; i < len(planted) && !denied; i++ {
		for _, f := range [][]byte{frame(byte(min(1, max(0, 1-i))), planted[i:i+1]), frame(0x89, "")} {
			stream += len(f)
			out, d := filter.write(f)
			if denied = d != nil; denied {
				break
			}
			sent = append(sent, out...)
			filter.drop(len(out))
			if i < len(planted)/2 && len(sent) != stream {
				t.Errorf("frame %d: got %d bytes of %d passed, want all", i, len(sent), stream)
			}
		}
	}
	if !denied || len(sent) > stream*3/4+len(frame(0, "x"))*2 {
		t.Errorf("frames: got denied %t with %d bytes of %d passed", denied, len(sent), stream)
	}
	// A credential's beginning that goes on in another way passes in the end.
	filter, sent = newFrameFilter(lendingExchange()), nil
	text := planted[:len(planted)-1] + "?" + strings.Repeat("x", 40)
	var all []byte
	for i := range len(text) {
		f := frame(byte(min(1, max(0, 1-i))), text[i:i+1])
		all = append(all, f...)
		out, _ := filter.write(f)
		sent = append(sent, out...)
		filter.drop(len(out))
	}
	if !bytes.Equal(sent, all) {
		t.Errorf("harmless frames: got %d bytes of %d passed", len(sent), len(all))
	}
}
