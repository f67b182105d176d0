// SPDX-License-Identifier: Apache-2.0

// Package bench measures speed and cost on a development cluster. Most results are
// ratios to the same docker and smolvm commands run by hand, one after another, on
// the same node in the same run. It asserts no times: it prints a table and writes
// JSON. Run it with make bench.
package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// row is one line of the table: what was measured, its spread and its goal.
type row struct {
	What   string  `json:"what"`
	Value  float64 `json:"value"`
	Unit   string  `json:"unit"`
	Spread string  `json:"spread,omitempty"`
	Goal   string  `json:"goal,omitempty"`
}

var rows []row

func report(r row) { rows = append(rows, r) }

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard()) // silence the client: tests report failures themselves
	code := m.Run()
	if len(rows) > 0 {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "\nWHAT\tVALUE\tUNIT\tSPREAD\tGOAL")
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%.3g\t%s\t%s\t%s\n", r.What, r.Value, r.Unit, r.Spread, r.Goal)
		}
		w.Flush()
		if path := os.Getenv("BENCH_OUT"); path != "" {
			data, err := json.MarshalIndent(rows, "", "  ")
			if err == nil {
				err = os.WriteFile(path, append(data, '\n'), 0o644)
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
				code = 1
			}
		}
	}
	os.Exit(code)
}

// percentile returns the p-th percentile of a sample, by the nearest rank.
func percentile(sample []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(sample))
	return sorted[min(len(sorted)-1, (len(sorted)*p+99)/100-1)]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func spread(sample []time.Duration) string {
	return fmt.Sprintf("min %.0f p50 %.0f p95 %.0f max %.0f ms, n=%d", ms(slices.Min(sample)), ms(percentile(sample, 50)),
		ms(percentile(sample, 95)), ms(slices.Max(sample)), len(sample))
}
