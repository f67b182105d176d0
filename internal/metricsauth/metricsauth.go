// SPDX-License-Identifier: Apache-2.0

// Package metricsauth restricts a program's metrics to users who may read them: the API
// server says whose token a request carries (TokenReview) and whether that user may get
// the path (SubjectAccessReview). controller-runtime's package filters does the same with
// k8s.io/apiserver, which would make the operator's binary, and so the bundle in every
// Bottle, half as large again. The package serves nothing and knows no certificates.
package metricsauth

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
)

const (
	// reviewTimeout bounds the API server's part of one request.
	reviewTimeout = 10 * time.Second
	// allowFor is how long an allowed token stays allowed without another review.
	allowFor = time.Minute
	// maxAllowed bounds how many tokens are remembered, and maxToken the length of
	// one.
	maxAllowed = 128
	maxToken   = 16 << 10
	// reviewRate and reviewBurst bound the reviews that strangers can cause, per
	// second and at once. Tokens that were allowed before do not count.
	reviewRate  = 5
	reviewBurst = 20
)

// Guard decides who may read.
type Guard struct {
	tokens  authenticationclient.TokenReviewInterface
	reviews authorizationclient.SubjectAccessReviewInterface
	limit   *rate.Limiter
	now     func() time.Time

	mu      sync.Mutex
	allowed map[[sha256.Size]byte]time.Time // until when; later, it is reviewed again
}

// New returns a Guard that asks the API server of cfg. Its user must be able to
// create tokenreviews and subjectaccessreviews.
func New(cfg *rest.Config, c *http.Client) (*Guard, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1 // the Guard has its own limit, and does not let requests wait
	authentication, err := authenticationclient.NewForConfigAndClient(cfg, c)
	if err != nil {
		return nil, fmt.Errorf("client for TokenReviews: %w", err)
	}
	authorization, err := authorizationclient.NewForConfigAndClient(cfg, c)
	if err != nil {
		return nil, fmt.Errorf("client for SubjectAccessReviews: %w", err)
	}
	return &Guard{
		tokens: authentication.TokenReviews(), reviews: authorization.SubjectAccessReviews(),
		limit: rate.NewLimiter(reviewRate, reviewBurst), now: time.Now, allowed: map[[sha256.Size]byte]time.Time{},
	}, nil
}

// Wrap returns a handler that passes on requests whose bearer token belongs to a
// user who may use the request's method on its path. It answers others with 401,
// 403 or, if the API server does not answer, 503. It answers 429 if there are too
// many requests to review.
func (g *Guard) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := g.check(r)
		if status == http.StatusOK {
			next.ServeHTTP(w, r)
			return
		}
		if status == http.StatusUnauthorized {
			w.Header().Set("WWW-Authenticate", "Bearer")
		}
		http.Error(w, http.StatusText(status), status)
	})
}

func (g *Guard) check(r *http.Request) int {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return http.StatusUnauthorized
	}
	key := sha256.Sum256([]byte(r.Method + " " + r.URL.Path + " " + token))
	fresh, before := g.known(key)
	if fresh {
		return http.StatusOK
	}
	// A reader who was allowed before is reviewed again even while strangers use up the
	// limit.
	if !before && !g.limit.Allow() {
		return http.StatusTooManyRequests
	}
	ctx, cancel := context.WithTimeout(r.Context(), reviewTimeout)
	defer cancel()
	status := g.review(ctx, token, r)
	switch status {
	case http.StatusOK:
		g.remember(key)
	case http.StatusUnauthorized, http.StatusForbidden:
		g.forget(key)
	}
	return status
}

// review asks the API server.
func (g *Guard) review(ctx context.Context, token string, r *http.Request) int {
	who, err := g.tokens.Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return http.StatusServiceUnavailable
	}
	if !who.Status.Authenticated {
		return http.StatusUnauthorized
	}
	user := who.Status.User
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	may, err := g.reviews.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: r.URL.Path, Verb: strings.ToLower(r.Method)},
	}}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return http.StatusServiceUnavailable
	case !may.Status.Allowed:
		return http.StatusForbidden
	}
	return http.StatusOK
}

// known reports whether the request is allowed without a review, and whether it
// was allowed at its last review.
func (g *Guard) known(key [sha256.Size]byte) (fresh, before bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	until, before := g.allowed[key]
	return g.now().Before(until), before
}

func (g *Guard) forget(key [sha256.Size]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.allowed, key)
}

func (g *Guard) remember(key [sha256.Size]byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.allowed[key]; !ok && len(g.allowed) >= maxAllowed {
		clear(g.allowed) // they are reviewed again
	}
	g.allowed[key] = g.now().Add(allowFor)
}
