// SPDX-License-Identifier: Apache-2.0

package egresslimit

import (
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
)

func closed(by egress.ClosedBy, networks ...string) []egress.Closed {
	var out []egress.Closed
	for _, n := range networks {
		out = append(out, egress.Closed{Network: netip.MustParsePrefix(n), By: by})
	}
	return out
}

// What is closed anyway is left out, so that the rules files change rarely.
func TestLimits(t *testing.T) {
	ceiling := &egress.Set{}
	s := newSource(t, func(o *Options) {
		o.Ceiling = ceiling
		o.Addresses = func() ([]egress.Closed, error) {
			return slices.Concat(closed(egress.ByNode, "198.51.100.9/32", "127.0.0.1/32", "127.0.0.0/8", "::1/128", "fe80::1/128", "192.168.44.1/32", "10.96.0.1/32",
				"172.17.0.1/32", "198.51.100.9/32"), closed(egress.ByBottle, "192.168.44.0/24", "10.40.3.0/24")), nil
		}
	})
	want := slices.Concat(closed(egress.BySubnetPool, "192.168.0.0/16"), closed(egress.ByFlag, "10.96.0.0/12"), closed(egress.ByBottle, "10.40.3.0/24"),
		closed(egress.ByNode, "172.17.0.1/32", "198.51.100.9/32"))
	if got := s.Limits(); !slices.Equal(got.Closed, want) || got.Ceiling != ceiling {
		t.Errorf("limits: got %v, want %v and the ceiling", got, want)
	}
	s.SetExternal([]netip.Addr{netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("::ffff:203.0.113.6"), netip.MustParseAddr("198.51.100.9"), {}})
	want = append(want, closed(egress.ByNode, "203.0.113.5/32", "203.0.113.6/32")...)
	if got := s.Limits(); !slices.Equal(got.Closed, want) {
		t.Errorf("limits with external addresses: got %v, want %v", got.Closed, want)
	}
	if got := s.External(); len(got) != 3 || got[1] != netip.MustParseAddr("203.0.113.6") {
		t.Errorf("external addresses: got %v, want the three valid ones", got)
	}
}

func TestNewFailsWithoutAddresses(t *testing.T) {
	none := errors.New("no netlink")
	if _, err := New(Options{Addresses: func() ([]egress.Closed, error) { return nil, none }}); !errors.Is(err, none) {
		t.Errorf("got %v, want %v", err, none)
	}
}

// Limits that could not be applied are applied again, and addresses that cannot be
// read stay closed.
func TestRunTriesAgain(t *testing.T) {
	synctest.Test(t, testRunTriesAgain)
}

func testRunTriesAgain(t *testing.T) {
	addresses := make(chan error, 10)
	s := newSource(t, func(o *Options) {
		o.Addresses = func() ([]egress.Closed, error) {
			select {
			case err := <-addresses:
				return nil, err
			default:
				return closed(egress.ByNode, "198.51.100.9/32"), nil
			}
		}
	})
	addresses <- errors.New("no netlink today")
	calls := make(chan int, 10)
	n := 0
	run(t, s, func() error {
		n++
		calls <- n
		if n < 3 {
			return errors.New("disk full")
		}
		return nil
	})
	for want := 1; want <= 3; want++ {
		select {
		case got := <-calls:
			if got != want || !s.Limits().Closes(netip.MustParsePrefix("198.51.100.9/32")) {
				t.Errorf("call %d: got %d, and the limits %v", want, got, s.Limits().Closed)
			}
		case <-time.After(5 * retryPause):
			t.Fatalf("call %d: got none within %s", want, 5*retryPause)
		}
	}
	s.SetExternal([]netip.Addr{netip.MustParseAddr("203.0.113.5")})
	select {
	case <-calls:
	case <-time.After(interval / 2):
		t.Error("after a change: got no call")
	}
	select {
	case <-calls:
		t.Error("without a change: got another call")
	case <-time.After(3 * interval):
	}
}

// A node whose addresses take long to read, and change all the time, is not read all
// the time.
func TestChangesWithoutEnd(t *testing.T) { synctest.Test(t, testChangesWithoutEnd) }

func testChangesWithoutEnd(t *testing.T) {
	const took = 50 * time.Millisecond
	var readings atomic.Int64
	s := newSource(t, func(o *Options) {
		o.Addresses = func() ([]egress.Closed, error) {
			readings.Add(1)
			time.Sleep(took)
			return nil, nil
		}
	})
	run(t, s, func() error { return nil })
	start := time.Now()
	for time.Since(start) < 2*time.Second {
		s.signal()
		time.Sleep(time.Millisecond)
	}
	if got, most := readings.Load(), int64(time.Since(start)/(restFactor*took))+3; got > most {
		t.Errorf("readings: got %d in %s, want at most %d", got, time.Since(start), most)
	}
}
