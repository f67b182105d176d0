// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"context"
	"net/http"
	"slices"
	"sync/atomic"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/needle"
)

// exchange is a request to an opened host that a rule lets through, and its response.
type exchange struct {
	p       *proxy
	target  target
	scheme  string // of the request that is sent
	http2   bool   // the guest speaks HTTP/2
	method  string
	path    string           // in the form that is checked and sent
	rule    *egress.HTTPRule // nil if none matches
	index   int              // of the rule among all rules of the Bottle
	header  *headerValue     // the credential; nil for none
	secrets *secrets
	body    *requestBody // nil for none
	ahead   *aheadReader // of the response; nil before there is a body
	// acceptsTrailers: the guest said so. gRPC needs it.
	acceptsTrailers bool
	cancel          context.CancelCauseFunc

	in, out atomic.Int64 // bytes of the bodies
	// refused is why the request ended after it was let through; nil if it did not.
	refused atomic.Pointer[decision]
	found   atomic.Pointer[finding] // that is only reported
}

// finding is a known secret in a request.
type finding struct {
	hit   needle.Hit
	place string
}

// The places of a finding.
const (
	placeURL    = "url"
	placeHeader = "header"
	placeBody   = "body"
)

type exchangeKey struct{}

// exchangeOf returns the exchange of a request that is being forwarded.
func exchangeOf(r *http.Request) *exchange {
	x, _ := r.Context().Value(exchangeKey{}).(*exchange)
	return x
}

// stillAllowed reports whether the same rule still lets the request through.
func (x *exchange) stillAllowed(set egress.Set) bool {
	if _, ok := set.Match(x.target.host, x.target.port); !ok || !set.Opens(x.target.host, x.target.port) {
		return false
	}
	rules := set.HTTPRules(x.target.host, x.target.port)
	i := slices.IndexFunc(rules, func(r egress.HTTPRule) bool { return r.Match(x.method, x.path) })
	return i >= 0 && rules[i].Equal(*x.rule)
}

// end ends the request, and logs why. Only the first reason counts.
func (x *exchange) end(d decision) {
	if x.refused.CompareAndSwap(nil, &d) {
		x.p.log.exchange(x, d)
		x.cancel(errEnded)
	}
}

func (x *exchange) revoke() { x.end(deny(x.refusal(egress.CauseRulesChanged))) }

// refusal returns the refusal of the request for a cause.
func (x *exchange) refusal(cause egress.Cause) egress.Refusal {
	return egress.Refusal{Host: x.target.host, Port: x.target.port, Cause: cause, Method: egress.KnownMethod(x.method)}
}

// look returns the decision about a piece of the request: nil if it may be sent.
func (x *exchange) look(s *needle.Scanner, piece []byte, place string) *decision {
	hit := s.Write(piece)
	switch {
	case hit == nil:
		return nil
	case hit.Short:
		x.found.CompareAndSwap(nil, &finding{*hit, place})
		return nil
	}
	return x.denySecret(*hit, place)
}

func (x *exchange) denySecret(hit needle.Hit, place string) *decision {
	r := x.refusal(egress.CauseKnownSecret)
	r.Secret, r.Key, r.Place = hit.Name, hit.Key, place
	d := deny(r)
	return &d
}
