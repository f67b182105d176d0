// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/internal/heartbeat"
)

// heartbeatFile, below the state folder, says when the machines were last guarded.
const heartbeatFile = "heartbeat"

// openHeartbeat registers for how long nobody guarded the machines, and returns what
// records that they are guarded. The file stays open until the process ends.
func openHeartbeat(path string, registry prometheus.Registerer) (func(machines int), error) {
	recorder, err := heartbeat.Open(path, ctrl.Log.WithName("heartbeat"))
	if err != nil {
		return nil, fmt.Errorf("--state-dir: %w", err)
	}
	if err := registry.Register(recorder.Metric()); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return recorder.Beat, nil
}
