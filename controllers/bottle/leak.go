// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"fmt"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/agentstatus"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/enforce"
	"botbottle.dev/bottle-operator/internal/state"
)

// requestOf returns what a user can change to start a Bottle again after a leak.
func requestOf(b *v1alpha1.Bottle) enforce.Request {
	return enforce.Request{Generation: b.Generation, Prove: b.Annotations[v1alpha1.AnnotationProve], BundleImage: desired.BundleImage(b)}
}

// findLeak sets the scope's leak: one that the guard knows of, or one from an
// earlier node, which the status carries along.
func findLeak(e enforce.Enforcement, s *scope) {
	request := requestOf(s.bottle)
	s.leak = e.Leak(s.owner.UID, request)
	if st := s.bottle.Status.Egress; s.leak == nil && st != nil && st.Leak != nil && st.Leak.Asked == request.String() {
		s.leak = &state.Leak{Time: st.Leak.Time.Time, Path: st.Leak.Path, ReportedFor: request.String(),
			Smolvm: ptr.Deref(st.Leak.SmolvmVersion, ""), Backend: ptr.Deref(st.Leak.Backend, "")}
	}
	s.reportLeak()
}

// reportLeak reports the scope's leak in the status, and removes any other.
func (s *scope) reportLeak() {
	var leak *v1alpha1.EgressLeak
	if l := s.leak; l != nil {
		leak = &v1alpha1.EgressLeak{Time: *timeOf(l.Time), Path: agentstatus.Bounded(l.Path), Asked: requestOf(s.bottle).String()}
		if l.Smolvm != "" {
			leak.SmolvmVersion = &l.Smolvm
		}
		if l.Backend != "" {
			leak.Backend = &l.Backend
		}
	}
	status := v1alpha1.EgressStatus{}
	if s.status.Egress != nil {
		status = *s.status.Egress
	}
	status.Leak = leak
	s.status.Egress = agentstatus.Egress(status)
}

// leakMessage returns the evidence, and how to start the machine again.
func leakMessage(s *scope) string {
	l := s.leak
	return fmt.Sprintf("the guest reached %s at %s (smolvm %s, %s); the machine was stopped, and starts again once the spec or the annotation %s changes",
		l.Path, l.Time.Format("2006-01-02T15:04:05Z"), or(l.Smolvm, "of unknown version"), or(l.Backend, "unknown backend"), v1alpha1.AnnotationProve)
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
