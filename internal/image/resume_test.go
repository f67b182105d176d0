// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// cutting ends an answer after so many bytes.
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

// What ranges a registry is asked for after its first two answers broke off
// in the middle, and what becomes of it where it does not give them. The clock
// stands still: each try that is refused is one of the few that there are.
func TestResumeByRangeSupport(t *testing.T) {
	const after = 1 << 20
	refuse := func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) }
	for name, c := range map[string]struct {
		// partial answers a request with a range; nil leaves it to
		// go-containerregistry's registry, which knows only those with an end.
		partial func(w http.ResponseWriter, r *http.Request)
		// whole: the range is taken out of the request.
		whole bool
		want  []string // the ranges, %d for the blob's last byte
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
					n *= cuts // past what was had
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
				t.Errorf("ranges asked for: got %q, want %q", got, want)
			}
		})
	}
}
