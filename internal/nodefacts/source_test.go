// SPDX-License-Identifier: Apache-2.0

package nodefacts

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

// In this test, neither dockerd nor smolvm obeys its context.
func TestAHangingSourceDelaysOthersOnlyBriefly(t *testing.T) {
	opts, _ := node(t)
	synctest.Test(t, func(t *testing.T) {
		var pings atomic.Int32
		release := make(chan struct{})
		opts.PingDocker = func(context.Context) error { pings.Add(1); <-release; return nil }
		opts.Version = func(context.Context) (host.SmolvmVersion, error) { <-release; return host.SmolvmVersion{}, nil }
		c := New(opts)
		for range 3 {
			started := time.Now()
			for _, f := range c.NodeFacts(t.Context()) {
				if want := f.Name != dockerName && f.Name != versionName; f.OK != want {
					t.Errorf("%s: got %v %q, want %v", f.Name, f.OK, f.Message, want)
				}
			}
			if took := time.Since(started); took > versionBound+2*slack {
				t.Errorf("facts: got them after %s, want no later than the bound", took)
			}
		}
		if got := pings.Load(); got != 1 {
			t.Errorf("running pings: got %d, want 1", got)
		}
		close(release)
		synctest.Wait()
		if fact := c.NodeFacts(t.Context())[3]; !fact.OK {
			t.Errorf("docker answers again: got %q, want it good", fact.Message)
		}
	})
}

func TestASlowCheckReportsItsOwnError(t *testing.T) {
	opts, _ := node(t)
	synctest.Test(t, func(t *testing.T) {
		opts.PingDocker = func(ctx context.Context) error {
			<-ctx.Done()
			return errors.Join(errors.New("ping"), ctx.Err())
		}
		fact := New(opts).NodeFacts(t.Context())[3]
		if fact.OK || !strings.Contains(fact.Message, "ping") {
			t.Errorf("got %v %q, want docker's own error", fact.OK, fact.Message)
		}
	})
}
