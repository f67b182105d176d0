// SPDX-License-Identifier: Apache-2.0

package keyed

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Locks{Size: 2}
		var releases []func()
		for range 2 {
			release, err := l.Acquire(t.Context(), "a", "a")
			if err != nil {
				t.Fatal(err)
			}
			releases = append(releases, release)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Acquire(ctx, "b", "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("third caller: got %v, want %v", err, context.DeadlineExceeded)
		}
		if _, err := l.Acquire(t.Context(), "b"); err != nil { // never released
			t.Errorf("another name: got %v, want nil", err)
		}
		for _, release := range releases {
			release()
		}
		if _, still := l.names["a"]; still || len(l.names) != 1 {
			t.Errorf("names: got %v, want only b", l.names)
		}
	})
}

// Callers that lock the same two names in different orders do not deadlock.
func TestLocksOfSeveralNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Locks{}
		inside := 0
		for i := range 50 {
			names := []string{"a", "b"}
			if i%2 == 0 {
				names = []string{"b", "a"}
			}
			go func() {
				defer l.Lock(names...)()
				if inside++; inside != 1 {
					t.Errorf("inside: got %d, want 1", inside)
				}
				time.Sleep(time.Second)
				inside--
			}()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(l.names) != 0 {
			t.Errorf("names: got %v, want none", l.names)
		}
	})
}
