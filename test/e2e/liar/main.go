// SPDX-License-Identifier: Apache-2.0

// Command liar is what a malicious guest may run instead of the prober. It reaches
// the bundle, tries nothing else and reports that all other targets timed out.
package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"botbottle.dev/bottle-operator/internal/enforce/probe"
)

func main() {
	if err := lie(); err != nil {
		fmt.Fprintln(os.Stderr, "liar:", err)
		os.Exit(1)
	}
}

func lie() error {
	plan, err := probe.DecodePlan(os.Stdin)
	if err != nil {
		return err
	}
	report := probe.Report{Version: plan.Version, Nonce: plan.Nonce, RoundTrip: time.Millisecond}
	for _, t := range plan.Reach {
		conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(t.Addr, t.Port).String(), time.Minute)
		if err != nil {
			return err
		}
		conn.Close()
		report.Results = append(report.Results, probe.Result{Target: t, Outcome: probe.Reached})
	}
	for _, t := range plan.Avoid {
		report.Results = append(report.Results, probe.Result{Target: t, Outcome: probe.TimedOut})
	}
	out, err := probe.EncodeReport(report)
	if err == nil {
		_, err = os.Stdout.Write(out)
	}
	return err
}
