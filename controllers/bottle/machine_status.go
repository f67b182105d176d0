// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/lifecycle"
	"botbottle.dev/bottle-operator/internal/workload"
)

// reportMachine reports the machine in the status.
func (s *scope) reportMachine(f lifecycle.Facts) {
	rec := s.record
	st := &v1alpha1.MachineStatus{Name: s.name()}
	if s.version.Version != "" {
		st.SmolvmVersion = ptr.To(s.version.Version)
	} else if s.status.Machine != nil {
		st.SmolvmVersion = s.status.Machine.SmolvmVersion
	}
	if f.Present && f.Ours && f.Machine.State == host.MachineRunning {
		if f.Machine.PID > 0 {
			st.PID = ptr.To(int64(f.Machine.PID))
		}
		st.StartTime = timeOf(f.Machine.StartTime)
	}
	if rec != nil {
		st.Restarts = ptr.To(rec.Restarts)
		if rec.LastLoss != nil {
			st.LastLoss = &v1alpha1.MachineLoss{Time: *timeOf(rec.LastLoss.Time), Cause: rec.LastLoss.Cause}
		}
		s.status.Image = imageStatus(rec)
		if s.status.StartTime == nil || rec.Workload.Released {
			s.status.StartTime = timeOf(workload.Began(rec))
		}
	}
	s.status.Machine = st
}

// timeOf returns t in the API's form, or nil if it is zero.
func timeOf(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return ptr.To(metav1.NewTime(t).Rfc3339Copy())
}

func firstOf(t, otherwise time.Time) time.Time {
	if t.IsZero() {
		return otherwise.UTC().Truncate(time.Second)
	}
	return t.UTC().Truncate(time.Second)
}
