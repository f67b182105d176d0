// SPDX-License-Identifier: Apache-2.0

package eventsink

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
)

// refusing is a sink that refuses every Event.
type refusing struct {
	events.EventSink
	err error
}

func (r refusing) Create(context.Context, *eventsv1.Event) (*eventsv1.Event, error) {
	return nil, r.err
}

// An Event is dropped without an error only if its namespace is being deleted.
func TestCreate(t *testing.T) {
	forbidden := func(causes ...metav1.StatusCause) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Reason: metav1.StatusReasonForbidden, Code: http.StatusForbidden,
			Details: &metav1.StatusDetails{Causes: causes}}}
	}
	refused := forbidden()
	for name, tt := range map[string]struct{ err, want error }{
		"the namespace is being deleted": {forbidden(metav1.StatusCause{Type: corev1.NamespaceTerminatingCause}), nil},
		"forbidden":                      {refused, refused},
		"created":                        {nil, nil},
	} {
		if _, err := (sink{EventSink: refusing{err: tt.err}}).Create(t.Context(), &eventsv1.Event{}); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}

// keeping is a sink that keeps the last Event.
type keeping struct {
	events.EventSink
	last *eventsv1.Event
}

func (k *keeping) Create(_ context.Context, e *eventsv1.Event) (*eventsv1.Event, error) {
	k.last = e
	return e, nil
}

// The policies compare an Event's reportingInstance with the agent's node.
func TestInstance(t *testing.T) {
	for _, tt := range []struct{ instance, want string }{
		{"node-a", "node-a"},
		{"", "host"},
		{strings.Repeat("n", 200), strings.Repeat("n", 128)},
	} {
		k := &keeping{}
		if _, err := (sink{k, tt.instance}).Create(t.Context(), &eventsv1.Event{ReportingInstance: "host"}); err != nil || k.last.ReportingInstance != tt.want {
			t.Errorf("%.10q: got %q, %v, want %q", tt.instance, k.last.ReportingInstance, err, tt.want)
		}
	}
}
