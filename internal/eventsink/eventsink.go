// SPDX-License-Identifier: Apache-2.0

// Package eventsink provides recorders of Kubernetes Events. They differ from a
// manager's recorders in one respect: if the API server refuses an Event because
// its namespace is being deleted, they drop it without logging an error. Nothing
// can be created in such a namespace, and nobody can change that.
package eventsink

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	eventsclient "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// NewRecorder returns a recorder of Events that name the controller and the
// instance as their source. If instance is "", it is this machine's host name. The
// recorder records until mgr ends.
func NewRecorder(mgr ctrl.Manager, controller, instance string) (events.EventRecorder, error) {
	c, err := eventsclient.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("client of Events: %w", err)
	}
	broadcaster := events.NewBroadcaster(sink{&events.EventSinkImpl{Interface: c}, instance})
	ctx, cancel := context.WithCancel(klog.NewContext(context.Background(), mgr.GetLogger()))
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		cancel()
		return nil, fmt.Errorf("record Events: %w", err)
	}
	err = mgr.Add(manager.RunnableFunc(func(running context.Context) error {
		defer cancel()
		<-running.Done()
		return nil
	}))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("record Events: %w", err)
	}
	return broadcaster.NewRecorder(mgr.GetScheme(), controller), nil
}

// maxInstance is the API's limit on reportingInstance, in bytes.
const maxInstance = 128

// sink writes Events, and drops those in namespaces that are being deleted.
type sink struct {
	events.EventSink
	instance string
}

// Create implements events.EventSink.
func (s sink) Create(ctx context.Context, e *eventsv1.Event) (*eventsv1.Event, error) {
	// The recorder's own value ends in this machine's host name.
	if s.instance != "" {
		e.ReportingInstance = s.instance[:min(len(s.instance), maxInstance)]
	}
	created, err := s.EventSink.Create(ctx, e)
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return e, nil
	}
	return created, err
}
