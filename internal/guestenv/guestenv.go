// SPDX-License-Identifier: Apache-2.0

// Package guestenv puts together the environment of a guest: the operator's
// own variables, and the user's on top. It is pure: it reads no Secret, writes
// no file, and does not decide how a value travels; it only keeps apart what
// may be written down in the Smolfile from what must go by reference.
package guestenv

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"botbottle.dev/bottle-operator/internal/errlist"
)

// ProxyPort is where every bundle offers its HTTP proxy.
const ProxyPort = 8888

// Var is one variable of the guest.
type Var struct {
	Name, Value string
	// Secret says that Value comes from a Secret: it goes to smolvm by
	// reference, as a file, and never into the Smolfile, a log or an error.
	Secret bool
}

// Build is the guest's whole environment, one entry per name, sorted by name.
// The user wins where a name is also the operator's. caPath is the path in the
// guest of the mounted PEM that the guest is to trust, "" for none. The error
// wraps one *VarError for each variable that cannot be passed.
func Build(bundleIP netip.Addr, caPath string, user []Var) ([]Var, error) {
	if !bundleIP.Is4() {
		return nil, fmt.Errorf("bundle address %s: want an IPv4 address", bundleIP)
	}
	var errs []error
	fromUser := make(map[string]Var, len(user))
	for _, v := range user {
		if _, ok := fromUser[v.Name]; ok {
			errs = append(errs, &VarError{v.Name, ErrDuplicate})
		}
		fromUser[v.Name] = v
	}
	all := operators(bundleIP, caPath)
	maps.Copy(all, fromUser)

	out := make([]Var, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := Check(all[name]); err != nil {
			errs = append(errs, err)
		}
		out = append(out, all[name])
	}
	if len(errs) > 0 {
		return nil, errlist.List(errs)
	}
	return out, nil
}

// operators are the operator's own variables. They hold IP literals, for the
// guest has no resolver, and both cases of each name, for programs disagree.
func operators(bundleIP netip.Addr, caPath string) map[string]Var {
	proxy := fmt.Sprintf("http://%s:%d", bundleIP, ProxyPort)
	direct := "localhost,127.0.0.1," + bundleIP.String()
	values := map[string]string{
		"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "https_proxy": proxy, "http_proxy": proxy,
		"NO_PROXY": direct, "no_proxy": direct,
		"BOTTLE_BUNDLE_IP": bundleIP.String(),
	}
	if caPath != "" {
		values["NODE_EXTRA_CA_CERTS"] = caPath
		values["SSL_CERT_FILE"] = caPath
		values["REQUESTS_CA_BUNDLE"] = caPath
	}
	out := make(map[string]Var, len(values))
	for name, value := range values {
		out[name] = Var{Name: name, Value: value}
	}
	return out
}

// Split takes an environment apart by the way in which it travels: literals
// for the Smolfile, secrets for one file each.
func Split(vars []Var) (literals, secrets map[string]string) {
	literals, secrets = map[string]string{}, map[string]string{}
	for _, v := range vars {
		if v.Secret {
			secrets[v.Name] = v.Value
		} else {
			literals[v.Name] = v.Value
		}
	}
	return literals, secrets
}

// TrimmedByGuest says whether value ends in white space, which smolvm drops on
// the way into the guest: any of Unicode's at the end of a Smolfile entry,
// newlines at least at the end of a secret file. What is inside or in front
// arrives. The caller says so once, for nobody else will.
func TrimmedByGuest(value string) bool {
	return strings.TrimRightFunc(value, unicode.IsSpace) != value
}
