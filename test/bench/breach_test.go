// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/story"
)

// BenchmarkBreach is how long a guest that dials its gateway ten times a
// second gets through, and how long its machine lives, after its wall was taken
// away: with everything else well, and with dockerd hanging and the API server
// away.
func BenchmarkBreach(b *testing.B) {
	c := connect(b)
	if real() {
		b.Skip("measured with stand-in machines: an emulated node has no times to speak of")
	}
	const n = 3
	for _, breach := range story.Breaches {
		for _, alone := range []bool{false, true} {
			var dials, lives []time.Duration
			reached := 0
			for i := range n {
				ns := c.Namespace(b)
				one := bottle(ns, fmt.Sprintf("breach-%d", i))
				one.Spec.Command = story.Dialer
				c.Apply(b, one)
				c.WaitRunning(b, one)
				breach.Prepare(b, c, one)
				count := c.StartCounter(b, one, breach.Netns(one))
				pid := *one.Status.Machine.PID
				var thaw []func()
				if alone {
					thaw = []func(){c.Freeze(b, node, "dockerd"), c.Freeze(b, node, "kube-apiserver")}
				}
				wake := func() {}
				if breach.FreezeAgent {
					wake = c.Freeze(b, node, "agent")
				}
				begin := time.Now()
				breach.Break(b, c, one)
				if breach.FreezeAgent {
					begin, pid = time.Now(), 0 // it is another machine by now
				}
				wake()
				lives = append(lives, gone(b, c, pid, begin))
				got, last := count.Read(b)
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
				count.Stop(b)
				breach.Undo(b, c, one)
				c.DeleteAndWait(b, one)
			}
			what := breach.Name
			if alone {
				what += ", dockerd hanging, API server away"
			}
			report(row{What: "wall taken away (" + what + "): until the machine is gone, max", Value: ms(percentile(lives, 100)), Unit: "ms", Goal: "<= 5000", Spread: spread(lives)})
			report(row{What: fmt.Sprintf("  last of its dials that got through, max (%d of %d runs had any)", reached, n), Value: ms(max(0, percentile(dials, 100))), Unit: "ms"})
		}
	}
}

// gone waits until no process pid is left, or no VMM at all for 0.
func gone(b *testing.B, c *story.Cluster, pid int64, begin time.Time) time.Duration {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if pid == 0 {
			if c.TryExec(b, node, "pgrep", "-f", "[_]boot-vm").Code == 1 {
				return time.Since(begin)
			}
			continue
		}
		// Local nodes share this machine's process ids.
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || len(stat) == 0 || zombie(stat) {
			return time.Since(begin)
		}
	}
	b.Fatal("the machine outlived its wall by a minute")
	return 0
}

// zombie says whether a process has ended and only waits to be reaped.
func zombie(stat []byte) bool {
	for i := len(stat) - 1; i > 0; i-- {
		if stat[i] == ')' {
			return i+2 < len(stat) && stat[i+2] == 'Z'
		}
	}
	return false
}
