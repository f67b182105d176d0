// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// cuttingWriter breaks the connection after so many bytes.
type cuttingWriter struct {
	http.ResponseWriter
	left int
}

func (c *cuttingWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// This tests which ranges are requested after the first two responses were cut
// off, and that the pull succeeds if the registry does not serve them. The
// clock stands still. Each refused request counts toward the limit on attempts.
func TestResumeByRangeSupport(t *testing.T) {
	const after = 1 << 20
	refuse := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) }
	for name, c := range map[string]struct {
		// partial answers a request with a range. nil leaves it to
		// go-containerregistry's registry, which supports only ranges with an
		// end.
		partial func(w http.ResponseWriter, r *http.Request)
		// whole removes the range from the request.
		whole bool
		want  []string // the ranges; %d is the blob's last byte
	}{
		"go-containerregistry": {want: []string{"", "bytes=1048576-%d", "bytes=2097152-%d"}},
		"refuses them":         {partial: refuse, want: []string{"", "bytes=1048576-%d", "", ""}},
		"ignores them":         {whole: true, want: []string{"", "bytes=1048576-%d", "bytes=2097152-%d"}},
		"gives others": {partial: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 0-9/10")
			w.WriteHeader(http.StatusPartialContent)
		}, want: []string{"", "bytes=1048576-%d", "", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			b, img := pushBroken(t, w, "demo:1", true)
			var got []string
			cuts := 0
			w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != b.path {
					return false
				}
				requested := r.Header.Get("Range")
				got = append(got, requested)
				if requested != "" && c.partial != nil {
					c.partial(rw, r)
					return true
				}
				if c.whole {
					r.Header.Del("Range")
				}
				if cuts++; cuts > 2 {
					return false
				}
				n := after
				if r.Header.Get("Range") == "" {
					n *= cuts // past the bytes that were already read
				}
				w.reg.registry.ServeHTTP(&cuttingWriter{rw, n}, r)
				return true
			})
			wantImage(t, w.want(w.request("demo:1", "a")).Path, img)
			want := slices.Clone(c.want)
			for i := range want {
				if strings.Contains(want[i], "%d") {
					want[i] = fmt.Sprintf(want[i], len(b.data)-1)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("requested ranges: got %q, want %q", got, want)
			}
		})
	}
}
