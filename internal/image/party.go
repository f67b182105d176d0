// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// party is a host that takes part in a pull.
type party struct {
	// host is HOST[:PORT]; "" is the registry.
	host string
	// redirected means that the registry, or a host that it chose, redirected the agent
	// there, as to a storage of blobs. Otherwise the registry named it as its token
	// server.
	redirected bool
}

// partyError says at which host a request failed.
type partyError struct {
	error
	party
}

func (e *partyError) Unwrap() error { return e.error }

// Timeout lets an http.Client tell a timeout.
func (e *partyError) Timeout() bool { return timedOut(e.error) }

func timedOut(err error) bool {
	var failed net.Error
	return errors.As(err, &failed) && failed.Timeout()
}

// partyOf returns the host of a request. An http.Client sets Response on a request that
// follows a redirect.
func partyOf(req *http.Request) party {
	return party{host: req.URL.Host, redirected: req.Response != nil}
}

// upgradedError means that a request failed that was to use plain HTTP, and was sent over
// TLS instead.
type upgradedError struct{ error }

func (e *upgradedError) Unwrap() error { return e.error }

// Timeout lets an http.Client tell a timeout.
func (e *upgradedError) Timeout() bool { return timedOut(e.error) }

// partyBody adds the host to the errors of a body.
type partyBody struct {
	io.ReadCloser
	party
}

func (b *partyBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &partyError{err, b.party}
	}
	return n, err
}

var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?)*\.?$`)

// maxHostText bounds, in bytes, the name of a host in a message.
const maxHostText = 128

// hostText returns HOST[:PORT] for a message, or "another host" if it is not a proper
// address or name: whoever runs a registry chooses the hosts to which it redirects.
func hostText(hostPort string) string {
	const other = "another host"
	host, port := hostPort, ""
	if h, p, err := net.SplitHostPort(hostPort); err == nil {
		host, port = h, p
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if addr, err := netip.ParseAddr(host); err == nil {
		host = addr.WithZone("").String()
	} else if len(host) > maxHostText || !hostName.MatchString(host) {
		return other
	}
	if port == "" {
		return host
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		return other
	}
	return net.JoinHostPort(host, port)
}
