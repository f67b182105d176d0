// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"botbottle.dev/bottle-operator/internal/brokerfile"
	"botbottle.dev/bottle-operator/internal/egress"
)

// TestRequestBodyHoldsBack checks that nothing of a known secret passes before the rest of it
// is there, however the body is cut, and that harmless bodies pass whole.
func TestRequestBodyHoldsBack(t *testing.T) {
	const harmless = "start "
	long := strings.Repeat("some text ", 2*scanBuffer/10)
	for name, cut := range map[string]func(io.Reader) io.Reader{"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader} {
		for body, want := range map[string]string{
			harmless + known: harmless, long + known + long: long, harmless + known[:9]: harmless + known[:9], long: long, harmless + known[:9] + "x": harmless + known[:9] + "x",
		} {
			x := &exchange{
				p: &proxy{log: newDecisionLog(nil)}, rule: &egress.HTTPRule{}, cancel: func(error) {},
				secrets: newSecrets([]brokerfile.Secret{{Secret: "env", Key: "long", Value: []byte(known)}}),
			}
			r := &http.Request{Body: io.NopCloser(cut(strings.NewReader(body)))}
			got, err := io.ReadAll(newRequestBody(x, r))
			denied := strings.Contains(body, known)
			if len(got) > len(want) || !strings.HasPrefix(want, string(got)) || !denied && string(got) != want {
				t.Errorf("%s: got %d bytes of %d, want %d", name, len(got), len(body), len(want))
			}
			if denied != errors.Is(err, errEnded) || denied != (x.refused.Load() != nil) {
				t.Errorf("%s: got %v and refused %v, want refused %v", name, err, x.refused.Load(), denied)
			}
		}
	}
}

// TestAnswerToABrokenRequest checks that a host's answer to a request which was ended does not
// pass, even if it comes before the connection is closed.
func TestAnswerToABrokenRequest(t *testing.T) {
	x := &exchange{}
	x.refused.Store(&decision{})
	if err := x.receive(&http.Response{StatusCode: http.StatusOK}); !errors.Is(err, errEnded) {
		t.Errorf("got %v, want that the request was ended", err)
	}
	body := &responseBody{x: x, read: strings.NewReader("")}
	if _, err := body.Read(make([]byte, 1)); !errors.Is(err, errEnded) {
		t.Errorf("end of its body: got %v, want that the request was ended", err)
	}
}

// TestKnownSecretInTheNameOfATrailer checks that such a trailer is not sent.
func TestKnownSecretInTheNameOfATrailer(t *testing.T) {
	ow := newOpenedWorld(t, `{"host":"api.example.com:443"}`)
	ow.setHandler(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(rw, r.Trailer)
	})
	for _, version := range []string{"1.1", "2"} {
		for _, name := range []string{known, hex.EncodeToString([]byte(known))} {
			r := request("POST", "/", struct{ io.Reader }{strings.NewReader("body")})
			r.Trailer = http.Header{"X-" + name: {"1"}, "X-Sum": {"42"}}
			if _, body := ow.send(ow.client(version), r); body != "map[X-Sum:[42]]" {
				t.Errorf("HTTP/%s: the host got the trailers %s, want only the harmless one", version, body)
			}
		}
	}
}
