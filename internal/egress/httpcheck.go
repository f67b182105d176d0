// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// managedHeaders are headers in lower case that carry no credential: clients, servers and
// proxies need them to understand a message, or the bundle sets them itself.
var managedHeaders = []string{
	"accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "forwarded", "host",
	"if-range", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "range", "te", "trailer",
	"transfer-encoding", "upgrade", "via",
}

// Check returns an error that says what is wrong with the rule, if anything is. It names
// the field as in spec.egress.rules.
func (r HTTPRule) Check() error {
	if r.Host == (Rule{}) {
		return errors.New("host: is missing")
	}
	if r.Host.IsAddr() && !r.Host.addrs.IsSingleIP() {
		return fmt.Errorf("host: %s is a network; a rule for requests needs a host name or a single address", r.Host.addrs)
	}
	for i, m := range r.HTTP {
		for _, method := range m.Methods {
			if !isMethod(method) {
				return fmt.Errorf("http[%d].methods: %s is no method in upper case, such as GET", i, shown(method))
			}
		}
	}
	if r.Credential != nil {
		if err := r.Credential.Check(); err != nil {
			return fmt.Errorf("credential: %w", err)
		}
	}
	return nil
}

// Check returns an error that says what is wrong with the credential, if anything is.
func (c Credential) Check() error {
	header := strings.ToLower(c.Header)
	switch {
	case c.Secret == "" || c.Key == "":
		return errors.New("secretKeyRef: names no Secret or no key")
	case !isToken(c.Header):
		return fmt.Errorf("header: %s is not the name of a header", shown(c.Header))
	case slices.Contains(managedHeaders, header) || strings.HasPrefix(header, "sec-websocket-"):
		return fmt.Errorf("header: %s cannot carry a credential", c.Header)
	case !isPrintable(c.Prefix):
		return errors.New("prefix: must be printable ASCII")
	case !isPrintable(c.BasicUser) || strings.Contains(c.BasicUser, ":"):
		return errors.New("basicUser: must be printable ASCII without ':'")
	case c.BasicUser != "" && (c.Prefix != "" || header != "authorization"):
		return errors.New("basicUser: excludes header and prefix")
	}
	return nil
}

// shown quotes a name of at most 64 characters for an error.
func shown(name string) string { return `"` + Printable(name, MaxShownHost) + `"` }

func isMethod(method string) bool {
	return method != "" && 'A' <= method[0] && method[0] <= 'Z' &&
		strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_-") == ""
}

// isToken reports whether name can be the name of a header: a token of RFC 9110.
func isToken(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return name != ""
}

func isPrintable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}
