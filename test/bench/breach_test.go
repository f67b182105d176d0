// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/story"
)

// BenchmarkBreach measures what happens after the wall is removed from the machine
// of a guest that dials its gateway ten times a second: how long the guest gets
// through and how long the machine lives. It does so with everything else healthy,
// and with dockerd hanging and the API server down.
func BenchmarkBreach(b *testing.B) {
	c := connect(b)
	if real() {
		b.Skip("measured with stand-in machines: times on an emulated node mean little")
	}
	const n = 3
	for _, breach := range story.Breaches {
		for _, isolated := range []bool{false, true} {
			var dials, lives []time.Duration
			reached := 0
			for i := range n {
				ns := c.Namespace(b)
				one := bottle(ns, fmt.Sprintf("breach-%d", i))
				one.Spec.Command = story.Dialer
				c.Apply(b, one)
				c.WaitRunning(b, one)
				breach.Prepare(b, c, one)
				counter := c.StartCounter(b, one, breach.Netns(one))
				pid := *one.Status.Machine.PID
				var thaw []func()
				if isolated {
					thaw = []func(){c.Freeze(b, node, "dockerd"), c.Freeze(b, node, "kube-apiserver")}
				}
				resume := func() {}
				if breach.FreezeAgent {
					resume = c.Freeze(b, node, "agent")
				}
				begin := time.Now()
				breach.Break(b, c, one)
				if breach.FreezeAgent {
					begin, pid = time.Now(), 0 // Break started a new machine
				}
				resume()
				lives = append(lives, gone(b, c, pid, begin))
				got, last := counter.Read(b)
				if got > 0 {
					reached++
					dials = append(dials, last.Sub(begin))
				} else {
					dials = append(dials, 0)
				}
				for _, f := range thaw {
					f()
				}
				c.WaitRunning(b, one)
				counter.Stop(b)
				breach.Undo(b, c, one)
				c.DeleteAndWait(b, one)
			}
			what := breach.Name
			if isolated {
				what += ", dockerd hanging, API server down"
			}
			report(row{What: "wall removed (" + what + "): until the machine is gone, max", Value: ms(percentile(lives, 100)), Unit: "ms", Goal: "<= 5000", Spread: spread(lives)})
			report(row{What: fmt.Sprintf("  last connection that got through, max (%d of %d runs had any)", reached, n), Value: ms(max(0, percentile(dials, 100))), Unit: "ms"})
		}
	}
}

// gone waits until the process pid has ended, or, if pid is 0, until no VMM is left.
// It returns the time since begin.
func gone(b *testing.B, c *story.Cluster, pid int64, begin time.Time) time.Duration {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if pid == 0 {
			if c.TryExec(b, node, "pgrep", "-f", "[_]boot-vm").Code == 1 {
				return time.Since(begin)
			}
			continue
		}
		// Local nodes share this machine's process IDs.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || len(stat) == 0 || zombie(stat) {
			return time.Since(begin)
		}
	}
	b.Fatal("the machine still runs a minute after its wall was removed")
	return 0
}

// zombie reports whether a process has ended and is waiting to be reaped. stat is
// the content of /proc/PID/stat.
func zombie(stat []byte) bool {
	for i := len(stat) - 1; i > 0; i-- {
		if stat[i] == ')' {
			return i+2 < len(stat) && stat[i+2] == 'Z'
		}
	}
	return false
}
