// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
)

// HeaderSession is the header in which the manager sends the ID of the session, which is
// in its own audit lines too.
const HeaderSession = "X-Bottle-Session"

// session is one request about one Bottle.
type session struct {
	verb   string
	bottle Bottle
	id     string // from HeaderSession
	w      http.ResponseWriter
	r      *http.Request
	query  url.Values

	// in and out count the bytes from and to the client.
	in, out atomic.Int64
	// exitCode is the command's, nil if there is none.
	exitCode *int
	// abort ends the connection, so that the client sees that the answer is incomplete.
	abort bool
}

// serve finds the Bottle, serves the session, and writes its audit line.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, verb string, serve func(*session) error) {
	ctx := r.Context()
	namespace, name, uid := r.PathValue("namespace"), r.PathValue("name"), r.PathValue("uid")
	b, err := s.Bottles.Find(ctx, namespace, name, uid)
	if err != nil {
		writeError(w, asStatus(err, name))
		return
	}
	c := &session{verb: verb, bottle: b, id: sessionID(r), w: w, r: r, query: r.URL.Query()}
	// A session that ends in a panic has an audit line too: a client that opens no error
	// stream causes one in the library, when it reports how the command ended.
	started, err := time.Now(), errAbnormal
	defer func() { s.audit(c, err, time.Since(started)) }()
	err = serve(c)
	if c.abort {
		panic(http.ErrAbortHandler)
	}
}

var errAbnormal = errors.New("the session ended abnormally")

// audit writes the audit line of a session.
func (s *Server) audit(c *session, err error, took time.Duration) {
	owner := c.bottle.Owner
	fields := []any{
		"session", c.id, "verb", c.verb, "namespace", owner.Namespace, "bottle", owner.Name, "uid", owner.UID,
		"bytesIn", c.in.Load(), "bytesOut", c.out.Load(), "duration", took.Round(time.Millisecond).String(),
	}
	if c.exitCode != nil {
		fields = append(fields, "exitCode", *c.exitCode)
	}
	if err != nil {
		// The text is the server's own: it quotes neither the client nor the guest.
		fields = append(fields, "error", err.Error())
	}
	s.Log.WithName("access-audit").Info("Session ended", fields...)
}

// fail answers with an error. It is for requests that have not been answered yet.
func (c *session) fail(err error) error {
	err = asStatus(err, c.bottle.Owner.Name)
	writeError(c.w, err)
	return err
}

// sessionID returns the ID that the manager gave the session, or "" if it has no
// acceptable form.
func sessionID(r *http.Request) string {
	id := r.Header.Get(HeaderSession)
	if len(id) > 64 || strings.ContainsFunc(id, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-'
	}) {
		return ""
	}
	return id
}

var bottles = schema.GroupResource{Group: v1alpha1.GroupVersion.Group, Resource: "bottles"}

// asStatus returns err as an error with an HTTP status. The texts of the host's errors
// may quote a guest and are left out.
func asStatus(err error, name string) error {
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &status):
		return err
	case errors.Is(err, host.ErrNotFound):
		return apierrors.NewNotFound(bottles, name)
	case errors.Is(err, host.ErrNotRunning):
		return apierrors.NewConflict(bottles, name, errors.New("its machine is not running; the condition MachineReady says why"))
	case errors.Is(err, host.ErrInvalid):
		return apierrors.NewBadRequest("the node refuses it")
	case errors.Is(err, host.ErrUnavailable):
		return apierrors.NewServiceUnavailable("the node's smolvm or docker does not answer; try again")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return apierrors.NewServiceUnavailable("the request ended before its answer")
	}
	return apierrors.NewInternalError(errors.New("the node could not do it: try again, and check smolvm and docker on the node"))
}

// tooMany returns the error for a session beyond a bound.
func tooMany(format string, args ...any) error {
	return apierrors.NewTooManyRequests(fmt.Sprintf(format, args...), 5)
}

// writeError answers with an error of asStatus.
func writeError(w http.ResponseWriter, err error) {
	var known apierrors.APIStatus
	status := apierrors.NewInternalError(err).Status()
	if errors.As(err, &known) {
		status = known.Status()
	}
	status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	if after := ptr.Deref(status.Details, metav1.StatusDetails{}).RetryAfterSeconds; after > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(after))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status)
}
