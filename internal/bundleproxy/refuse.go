// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/internal/egress"
)

const (
	// deniedHeader has the text of a refusal, and is absent from every other answer.
	deniedHeader = "X-Bottle-Denied"
	// statusHeader says the same to programs: RFC 9209. In it, bundleName names the
	// bundle.
	statusHeader = "Proxy-Status"
	bundleName   = "bottle-bundle"
)

// removeClaims removes from a host's answer what only the bundle says.
func removeClaims(h http.Header) {
	h.Del(deniedHeader)
	if slices.ContainsFunc(h.Values(statusHeader), func(v string) bool { return strings.Contains(strings.ToLower(v), bundleName) }) {
		h.Del(statusHeader)
	}
}

// refuse answers a request that is not forwarded. Programs show different parts of an
// answer to CONNECT, and few show its body, so the text is in the body, in headers and
// in the reason phrase.
func (p *proxy) refuse(w http.ResponseWriter, r *http.Request, d decision) {
	if r.ContentLength != 0 {
		// Otherwise the server waits for the body before it answers, for as
		// long as the guest likes. In HTTP/2, other requests share the connection.
		if r.ProtoMajor < 2 {
			w.Header().Set("Connection", "close")
		}
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(p.limits.drain))
	}
	if c, ok := r.Context().Value(guestConnKey{}).(*guestConn); ok && r.Method == http.MethodConnect {
		c.setReason(http.StatusText(d.status) + ": " + d.refusal.String())
	}
	writeRefusal(w, d)
}

// writeRefusal writes the header and the body of an answer that the bundle gives itself.
func writeRefusal(w http.ResponseWriter, d decision) {
	text := d.refusal.String()
	for name, values := range refusalHeader(d, text) {
		w.Header()[name] = values
	}
	w.WriteHeader(d.status)
	fmt.Fprintf(w, "bundle: %s\n", text)
	if d.more != "" {
		fmt.Fprintln(w, d.more)
	}
}

// refusalHeader returns the headers of an answer that the bundle gives itself.
func refusalHeader(d decision, text string) http.Header {
	h := http.Header{}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)
	h.Set(statusHeader, fmt.Sprintf(`%s; error=%s; details="%s"`, bundleName, proxyError(d.refusal.Cause), quoted))
	if d.status == http.StatusForbidden {
		h.Set(deniedHeader, text)
	}
	return h
}

// proxyError returns the type of error that RFC 9209 has for a cause.
func proxyError(c egress.Cause) string {
	switch c {
	case egress.CauseUnknownName, egress.CauseResolver:
		return "dns_error"
	case egress.CauseConnectionRefused:
		return "connection_refused"
	case egress.CauseTimeout:
		return "connection_timeout"
	case egress.CauseNoRoute, egress.CauseUnreachable:
		return "destination_ip_unroutable"
	case egress.CauseBadAnswer:
		return "http_protocol_error"
	case egress.CauseUpstreamCertificate:
		return "tls_certificate_error"
	case egress.CauseCoding:
		return "http_response_content_coding"
	case egress.CauseScheme, egress.CauseBody, egress.CausePort, egress.CauseRequest:
		return "http_request_error"
	case egress.CausePrivate, egress.CauseNever, egress.CauseOwnNetwork:
		return "destination_ip_prohibited"
	}
	return "http_request_denied"
}

type guestConnKey struct{}

// contextWithGuestConn adds the guest's connection to the context of its requests, for
// refuse.
func contextWithGuestConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, guestConnKey{}, c)
}
