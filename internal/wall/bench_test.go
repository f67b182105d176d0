// SPDX-License-Identifier: Apache-2.0

package wall

import (
	"testing"

	"golang.org/x/sys/unix"

	"botbottle.dev/bottle-operator/internal/host"
)

// BenchmarkInspect reads back as many walls as a node can have. cpu-ms/op is the
// processor time of one reading, including that of the kernel.
func BenchmarkInspect(b *testing.B) {
	w := newWorld(b)
	specs := make([]host.WallSpec, 250)
	for i := range specs {
		specs[i] = newSpec(b, i)
		w.addBridge(b, specs[i])
		w.stand(b, specs[i])
	}
	before := cpuTime(b)
	for b.Loop() {
		walls, err := w.walls.InspectWalls(b.Context(), specs)
		must(b, err)
		for _, wall := range walls {
			if len(wall.Faults) > 0 {
				b.Fatalf("faults: got %v, want none", wall.Faults)
			}
		}
	}
	b.ReportMetric((cpuTime(b)-before)/float64(b.N), "cpu-ms/op")
}

// BenchmarkEnsure makes and deletes one wall.
func BenchmarkEnsure(b *testing.B) {
	w := newWorld(b)
	spec := newSpec(b, 44)
	w.addBridge(b, spec)
	for b.Loop() {
		_, err := w.walls.EnsureWall(b.Context(), spec)
		must(b, err)
		must(b, w.walls.DeleteWall(b.Context(), spec.Owner))
	}
}

// cpuTime returns the processor time of this process, in milliseconds.
func cpuTime(b *testing.B) float64 {
	b.Helper()
	var u unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
}

// BenchmarkInspectPods reads back 100 walls in 100 Pods.
func BenchmarkInspectPods(b *testing.B) {
	w := newPodWorld(b)
	specs := make([]host.WallSpec, 100)
	for i := range specs {
		specs[i] = newSpec(b, i)
		w.addPod(b, specs[i])
		w.addBridge(b, specs[i])
		w.stand(b, specs[i])
	}
	before := cpuTime(b)
	for b.Loop() {
		walls, err := w.pods.InspectWalls(b.Context(), specs)
		must(b, err)
		for _, wall := range walls {
			must(b, wall.Err)
			if len(wall.Faults) > 0 {
				b.Fatalf("faults: got %v, want none", wall.Faults)
			}
		}
	}
	b.ReportMetric((cpuTime(b)-before)/float64(b.N), "cpu-ms/op")
}
