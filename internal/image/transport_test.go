// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	clocktesting "k8s.io/utils/clock/testing"
)

// slowContent returns a fixed number of bytes per read, each after a fixed
// time.
type slowContent struct {
	source
	clock *clocktesting.FakeClock
	bytes int
	each  time.Duration
}

func (r *slowContent) blobFrom(context.Context, v1.Descriptor, int64) (io.ReadCloser, error) {
	return io.NopCloser(r), nil
}

func (r *slowContent) Read(p []byte) (int, error) {
	r.clock.Step(r.each)
	return copy(p, make([]byte, r.bytes)), nil
}

func TestPace(t *testing.T) {
	for name, tt := range map[string]struct {
		bytes int
		each  time.Duration
		size  int64
		ends  bool
	}{
		"a byte a minute":          {1, 59 * time.Second, 10 << 20, true},
		"just too slow":            {16 << 10, time.Second, 100 << 20, true},
		"slow":                     {18 << 10, time.Second, 100 << 20, false},
		"a stall that was resumed": {64 << 10, time.Second, 10 << 20, false},
		"small, and at its end":    {100, 3 * time.Minute, 100, false},
	} {
		t.Run(name, func(t *testing.T) {
			clock := clocktesting.NewFakeClock(time.Unix(1000, 0))
			from := &slowContent{clock: clock, bytes: tt.bytes, each: tt.each}
			body, err := pacedContent{from, clock, &waitingTransport{}}.blob(t.Context(), v1.Descriptor{Size: tt.size})
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(name, "stall") {
				from.each = stallTimeout + time.Second
			}
			n, p := int64(0), make([]byte, 256<<10)
			for err == nil && n < tt.size {
				var m int
				m, err = body.Read(p)
				n += int64(m)
				from.each = tt.each
				clock.Step(time.Hour) // a slow local disk
			}
			if (err != nil) != tt.ends {
				t.Errorf("got %v after %d of %d bytes, want it abandoned: %v", err, n, tt.size, tt.ends)
			}
		})
	}
}
