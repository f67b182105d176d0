// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

// roundTrips is how many round trips to the slowest port of the bundle every
// other target gets to answer: a slow host must not turn leaks into silence.
const roundTrips = 20

// prober tries targets for one plan.
type prober struct {
	nonce     string
	resolvers []netip.AddrPort // the guest's own
}

// answer is the outcome of one attempt.
type answer struct {
	outcome probe.Outcome
	detail  string
}

// report tries the whole plan. It first tries what must be reached, which
// determines how long to wait for the rest. It then tries the rest in parallel.
func (p prober) report(ctx context.Context, plan probe.Plan) probe.Report {
	trips := make([]time.Duration, len(plan.Reach))
	results := each(plan.Reach, func(i int, t probe.Target) answer {
		a, trip := p.reach(ctx, t)
		if trips[i] = trip; a == (answer{probe.Reached, ""}) {
			if b, again := p.reach(ctx, t); b == a { // without what is slow only once, such as ARP
				trips[i] = min(trip, again)
			}
		}
		return a
	})
	trip := slices.Max(trips)
	patience := patienceFor(trip, plan)
	results = append(results, each(plan.Avoid, func(_ int, t probe.Target) answer {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return p.avoid(ctx, t)
	})...)
	return probe.Report{Version: plan.Version, Nonce: plan.Nonce, RoundTrip: trip, Results: results}
}

func patienceFor(trip time.Duration, plan probe.Plan) time.Duration {
	return min(max(roundTrips*trip, plan.Floor), plan.Ceiling)
}

// each tries all targets in parallel. A plan bounds how many there are.
func each(targets []probe.Target, try func(int, probe.Target) answer) []probe.Result {
	results := make([]probe.Result, len(targets))
	var wg sync.WaitGroup
	for i, t := range targets {
		wg.Go(func() {
			a := try(i, t)
			results[i] = probe.Result{Target: t, Outcome: a.outcome, Detail: a.detail}
		})
	}
	wg.Wait()
	return results
}

// avoid tries one target that must not be reached, until ctx ends.
func (p prober) avoid(ctx context.Context, t probe.Target) answer {
	switch t.Proto {
	case probe.ProtoTCP:
		return p.tcp(ctx, t)
	case probe.ProtoUDP:
		return p.udp(ctx, t)
	case probe.ProtoDNS:
		return p.dns(ctx, t)
	case probe.ProtoICMP:
		return p.icmp(ctx, t.Addr)
	}
	return answer{probe.NotTried, "no way to try " + t.Proto}
}

// dial opens a connection, or a socket that only receives datagrams from addr. It
// sets the deadline of ctx.
func dial(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr.String())
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// failed returns the answer that a network error means.
func failed(err error) answer {
	detail := err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		detail = errno.Error() // without the addresses, which are in the target
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return answer{probe.TimedOut, ""}
	case errors.Is(err, syscall.ECONNREFUSED), isReset(err):
		return answer{probe.Refused, detail}
	case errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.EPROTONOSUPPORT):
		return answer{probe.NotTried, detail}
	}
	return answer{probe.Unreachable, detail}
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) }
