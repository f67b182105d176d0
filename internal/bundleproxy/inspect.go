// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/httppath"
	"botbottle.dev/bottle-operator/internal/needle"
)

var errEnded = errors.New("bundle: the request was ended")

// serve serves a request in an opened connection.
func (o *opener) serve(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(openedKey{}).(*openedConn)
	if !ok {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	t := c.target
	if cause := checkAuthority(r, t); cause != "" {
		d := reject(t, cause)
		o.p.log.decision(t, d)
		o.p.refuse(w, r, d)
		return
	}
	o.forward(w, r, outgoing{target: t, scheme: "https"})
}

// checkAuthority returns what is wrong with where a request in an opened connection is
// for; "" if nothing is.
func checkAuthority(r *http.Request, t target) egress.Cause {
	if r.Method == http.MethodConnect || r.URL.Host != "" || r.URL.Scheme != "" || r.URL.Opaque != "" || !strings.HasPrefix(r.RequestURI, "/") {
		return egress.CauseRequest
	}
	for _, authority := range append(r.Header.Values("Host"), r.Host) {
		if !isAuthority(authority, t) {
			return egress.CauseHostMismatch
		}
	}
	r.Header.Del("Host")
	return ""
}

// isAuthority reports whether an authority of HTTP names the target. Only the port of
// HTTPS may be absent.
func isAuthority(authority string, t target) bool {
	host, port, err := net.SplitHostPort(authority)
	if err != nil {
		host, port = authority, "443"
	}
	return host != "" && canonicalHost(host) == canonicalHost(t.host) && port == strconv.Itoa(int(t.port))
}

// authority returns how a request names the target.
func (t target) authority(scheme string) string {
	host := canonicalHost(t.host)
	if t.port == 443 && scheme == "https" || t.port == 80 && scheme == "http" {
		if strings.Contains(host, ":") {
			return "[" + host + "]"
		}
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(t.port)))
}

// outgoing is where a request to an opened host goes.
type outgoing struct {
	target target
	scheme string
}

// forward forwards a request to an opened host if a rule lets it through.
func (o *opener) forward(w http.ResponseWriter, r *http.Request, to outgoing) {
	select {
	case o.slots <- struct{}{}:
		defer func() { <-o.slots }()
	case <-r.Context().Done():
		return
	}
	x, d := o.inspect(r, to)
	if !d.allowed {
		o.p.log.exchange(x, d)
		o.p.refuse(w, r, d)
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	x.cancel = cancel
	o.start(x)
	defer o.finish(x)
	if refused := x.refused.Load(); refused != nil {
		o.p.refuse(w, r, *refused)
		return
	}
	// The host may answer before it has the whole request.
	_ = http.NewResponseController(w).EnableFullDuplex()
	out := r.WithContext(context.WithValue(withTarget(ctx, to.target), exchangeKey{}, x))
	if x.scheme == "http" {
		out.Trailer = nil // some programs treat trailers as headers, including Host
	}
	if r.Body != nil && r.Body != http.NoBody {
		// The server adds the trailers to r.
		x.body = newRequestBody(x, r)
		out.Body = x.body
	}
	guest := &guestWriter{ResponseWriter: w, x: x}
	if r.ProtoMajor == 1 {
		guest.conn, _ = r.Context().Value(openedKey{}).(*openedConn)
	}
	defer func() { _ = guest.pullCork() }() // the request may end with a panic
	o.reverse.ServeHTTP(guest, out)
}

// inspect finds the rule for a request, and looks for known secrets in all of it but its
// body. It removes from the request what must not be sent.
func (o *opener) inspect(r *http.Request, to outgoing) (*exchange, decision) {
	t := to.target
	x := &exchange{p: o.p, target: t, scheme: to.scheme, http2: r.ProtoMajor == 2, method: r.Method, secrets: o.p.broker.secrets.Load()}
	x.acceptsTrailers = hasToken(r.Header.Values("Te"), "trailers")
	keepWebSocket(r)
	set := o.p.rules.current() // not older than the secrets, see pollFiles
	if _, ok := set.Match(t.host, t.port); !ok || !set.Opens(t.host, t.port) {
		return x, deny(x.refusal(egress.CauseRulesChanged))
	}
	path, err := httppath.Normalize(r.URL)
	if err != nil {
		d := deny(x.refusal(egress.CausePath))
		d.more = err.Error()
		return x, d
	}
	x.path = path
	rules := set.HTTPRules(t.host, t.port)
	i := slices.IndexFunc(rules, func(rule egress.HTTPRule) bool { return rule.Match(r.Method, path) })
	if i < 0 {
		d := deny(x.refusal(egress.CauseMethodPath))
		d.more = allowedRequests(rules)
		return x, d
	}
	if name := override(rules[i], r, path); name != "" {
		d := deny(x.refusal(egress.CauseMethodPath))
		d.more = "the header " + name + " asks the host for another method or path\n" + allowedRequests(rules)
		return x, d
	}
	x.rule = &rules[i]
	x.index = slices.IndexFunc(set.AllHTTPRules(), x.rule.Equal)
	removeHeader(r.Header, "Sec-WebSocket-Extensions") // compressed messages cannot be searched
	if d := x.takeCredential(r); d != nil {
		return x, *d
	}
	if d := x.lookAtHead(r); d != nil {
		return x, *d
	}
	return x, decision{allowed: true, reason: "rule " + x.rule.Host.String()}
}

// methodOverrides and pathOverrides are headers, folded by foldName, by which a client asks
// some servers to treat a request as one with another method or path.
var (
	methodOverrides = []string{"x-http-method-override", "x-http-method", "x-method-override"}
	pathOverrides   = []string{"x-original-url", "x-rewrite-url"}
)

// override returns the name of a header that may make more of a request than its rule
// lets through; "" if there is none.
func override(rule egress.HTTPRule, r *http.Request, path string) string {
	if len(rule.HTTP) == 0 {
		return "" // every request is let through
	}
	for name, values := range r.Header {
		folded := foldName(name)
		if slices.Contains(pathOverrides, folded) {
			return folded
		}
		for _, value := range values {
			method := strings.ToUpper(strings.TrimSpace(value))
			if slices.Contains(methodOverrides, folded) && method != "" && !rule.Match(method, path) {
				return folded
			}
		}
	}
	return ""
}

// takeCredential prepares a request for the credential of its rule. It returns why that
// cannot be added; nil if it can or there is none.
func (x *exchange) takeCredential(r *http.Request) *decision {
	c := x.rule.Credential
	if c == nil {
		return nil
	}
	cause := egress.CauseNeedsTLS
	if x.scheme == "https" {
		value, ok := x.secrets.credential(*c)
		if ok {
			x.header = &value
			removeHeader(r.Header, value.name)
			limitResponse(r.Header)
			return nil
		}
		cause = egress.CauseCredentialMissing
	}
	refusal := x.refusal(cause)
	if cause == egress.CauseCredentialMissing {
		refusal.Secret, refusal.Key = c.Secret, c.Key
	}
	d := deny(refusal)
	return &d
}

// lookAtHead looks for known secrets in a request's URL and header.
func (x *exchange) lookAtHead(r *http.Request) *decision {
	s := x.newScanner()
	look := func(text, place string) *decision {
		// No form of a value contains NUL, so that two pieces never make one value.
		return x.look(s, append([]byte(text), 0), place)
	}
	query, _ := url.QueryUnescape(r.URL.RawQuery)
	for _, text := range []string{r.Method, x.path, r.URL.Path, r.URL.RawQuery, query} {
		if d := look(text, placeURL); d != nil {
			return d
		}
	}
	for name, values := range r.Header {
		if d := cmp.Or(x.lookAtName(name), look(strings.ToLower(name), placeHeader)); d != nil {
			return d
		}
		for _, value := range values {
			if d := look(value, placeHeader); d != nil {
				return d
			}
		}
	}
	return nil
}

// lookAtName looks for known secrets in the name of a header, whose case is lost.
func (x *exchange) lookAtName(name string) *decision {
	if hit := x.secrets.inName(name, x.rule.PassSecrets); hit != nil {
		return x.denySecret(*hit, placeHeader)
	}
	return nil
}

func (x *exchange) newScanner() *needle.Scanner {
	return x.secrets.known().NewScanner(x.rule.PassSecrets...)
}

// start registers a request, so that a change of the rules ends it.
func (o *opener) start(x *exchange) {
	o.mu.Lock()
	o.under[x] = struct{}{}
	o.mu.Unlock()
	if !x.stillAllowed(o.p.rules.current()) {
		x.revoke() // the rules have changed since the request was inspected
	}
}

// finish logs the request if nothing else did.
func (o *opener) finish(x *exchange) {
	o.mu.Lock()
	delete(o.under, x)
	o.mu.Unlock()
	x.end(decision{allowed: true, reason: "rule " + x.rule.Host.String()})
}
