// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"net/http"
	"strings"
)

// hopHeaders concern a single connection, either to the bundle or to the host,
// and are never forwarded. net/http handles those of the body itself.
var hopHeaders = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization", "Proxy-Connection", "Te", "Upgrade",
}

// removeHopHeaders removes hopHeaders and the headers that Connection names.
func removeHopHeaders(h http.Header) {
	for _, value := range h.Values("Connection") {
		for name := range strings.SplitSeq(value, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopHeaders {
		h.Del(name)
	}
}

// isWebSocket reports whether the header requests or accepts WebSocket, the
// only protocol upgrade that is forwarded.
func isWebSocket(h http.Header) bool {
	return hasToken(h.Values("Connection"), "upgrade") && hasToken(h.Values("Upgrade"), "websocket")
}

// keepWebSocket removes the headers of the connection, except those of a request for
// WebSocket. Some servers read the body of such a request as the first messages, which
// are searched in another way than a body.
func keepWebSocket(r *http.Request) {
	webSocket := r.Method == http.MethodGet && r.ContentLength == 0 && isWebSocket(r.Header)
	removeHopHeaders(r.Header)
	if webSocket {
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
	}
}

func hasToken(values []string, token string) bool {
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// forwarded are the headers that httputil.ReverseProxy removes as it is about to speak
// for the client. The bundle does not: it passes on what the guest wrote.
var forwarded = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}

// keepForwarded puts the headers back that httputil.ReverseProxy removed.
func keepForwarded(to, from http.Header) {
	for _, name := range forwarded {
		if values, ok := from[name]; ok {
			to[name] = values
		}
	}
}
