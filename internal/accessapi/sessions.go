// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/utils/clock"

	"botbottle.dev/bottle-operator/internal/egress"
)

const (
	// maxSessions bounds the open sessions of one manager. maxNamespaceSessions bounds
	// those with the Bottles of one namespace, whose owner can make any number of
	// ServiceAccounts, and maxUserSessions those of one user.
	maxSessions          = 1024
	maxNamespaceSessions = 384
	maxUserSessions      = 128
	// maxName bounds a user's name in the audit lines.
	maxName = 256
	// busyRetry is how many seconds a client waits when there are too many sessions.
	busyRetry = 5
)

// sessions bounds, counts and audits the sessions of this manager.
type sessions struct {
	log     logr.Logger
	clock   clock.PassiveClock
	metrics *metrics
	// stopped ends when the server stops; sessions end with it.
	stopped context.Context //nolint:containedctx // the lifetime of the server

	mu          sync.Mutex
	open        int
	byUser      map[string]int
	byNamespace map[string]int
}

// session is one use of exec, attach, log or proof.
type session struct {
	traffic
	id        string
	verb      string
	user      string
	namespace string
	log       logr.Logger
	start     time.Time
	// cancel ends the session's context.
	cancel context.CancelFunc
}

// begin opens a session and writes its first audit line. Its error is for the user.
// The context that it returns ends when the client goes or the server stops.
func (s *sessions) begin(r *http.Request, t *target, verb string) (*session, context.Context, error) {
	user, _ := request.UserFrom(r.Context())
	if user == nil {
		return nil, nil, apierrors.NewInternalError(fmt.Errorf("the request has no user"))
	}
	if err := s.admit(user.GetName(), t.bottle.Namespace); err != nil {
		s.metrics.ended(verb, "TooManyRequests")
		return nil, nil, err
	}
	opened := &session{id: rand.Text(), verb: verb, user: user.GetName(), namespace: t.bottle.Namespace, start: s.clock.Now()}
	opened.log = s.log.WithValues("session", opened.id, "user", egress.Printable(user.GetName(), maxName), "groups", len(user.GetGroups()),
		"source", sources(r), "verb", verb, "namespace", t.bottle.Namespace, "bottle", t.bottle.Name, "uid", t.bottle.UID, "node", t.node)
	s.metrics.began(verb)
	opened.log.Info("Session started")
	ctx, cancel := context.WithCancel(r.Context())
	forget := context.AfterFunc(s.stopped, cancel)
	opened.cancel = func() { forget(); cancel() }
	return opened, ctx, nil
}

// end closes a session and writes its last audit line. err is why it failed, if it
// did.
func (s *sessions) end(o *session, err error) {
	o.cancel()
	s.release(o)
	result := result(err)
	s.metrics.closed(o.verb)
	s.metrics.ended(o.verb, result)
	values := []any{"result", result, "bytesIn", o.in.Load(), "bytesOut", o.out.Load(), "duration", s.clock.Since(o.start).Round(time.Millisecond).String()}
	if code, known := o.exitCode(); known {
		values = append(values, "exitCode", code)
	}
	o.log.Info("Session ended", values...)
}

// errInterrupted ends a session whose client went, or whose agent did not report how
// it ended.
var errInterrupted = errors.New("interrupted")

// result names how a request ended: Completed, Interrupted, or the reason of its
// error.
func result(err error) string {
	switch reason := apierrors.ReasonForError(err); {
	case err == nil:
		return "Completed"
	case errors.Is(err, errInterrupted):
		return "Interrupted"
	case reason != "":
		return string(reason)
	}
	return "Unknown"
}

func (s *sessions) admit(user, namespace string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.open >= maxSessions:
		return apierrors.NewTooManyRequests(fmt.Sprintf("this manager has %d open sessions, which is the most that it serves. End some, or try again later", s.open), busyRetry)
	case s.byUser[user] >= maxUserSessions:
		return apierrors.NewTooManyRequests(fmt.Sprintf("you have %d open sessions, which is the most that one user may have. End some, or try again later", maxUserSessions), busyRetry)
	case s.byNamespace[namespace] >= maxNamespaceSessions:
		return apierrors.NewTooManyRequests(fmt.Sprintf("the Bottles of this namespace have %d open sessions, which is the most that one namespace may have. End some, or try again later", maxNamespaceSessions), busyRetry)
	}
	s.open++
	s.byUser[user]++
	s.byNamespace[namespace]++
	return nil
}

func (s *sessions) release(o *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	decrease(s.byUser, o.user)
	decrease(s.byNamespace, o.namespace)
}

// decrease lowers a count, and forgets it when it is 0.
func decrease(counts map[string]int, key string) {
	if counts[key]--; counts[key] == 0 {
		delete(counts, key)
	}
}

// sources returns the addresses that a request came from, as the API server's audit
// log does: the client first, as it is known, then the proxies.
func sources(r *http.Request) []string {
	const most = 5
	var out []string
	for _, ip := range utilnet.SourceIPs(r) {
		if len(out) < most {
			out = append(out, ip.String())
		}
	}
	return out
}
