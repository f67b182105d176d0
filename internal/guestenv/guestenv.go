// SPDX-License-Identifier: Apache-2.0

// Package guestenv builds the environment of a guest from the operator's
// variables and the user's variables, which override them. It is pure: it reads
// no Secret and writes no file. It does not pass values to the guest; it only
// separates the ones that may be written into the Smolfile from the ones that
// must be passed by reference.
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

// ProxyPort is the port of the HTTP proxy in every bundle.
const ProxyPort = 8888

// Var is one variable of the guest.
type Var struct {
	Name, Value string
	// Secret means that Value comes from a Secret: it is passed to smolvm by
	// reference, as a file, and never appears in the Smolfile, a log or an error.
	Secret bool
}

// Build returns the guest's whole environment, one entry per name, sorted by
// name. The user's variables override the operator's. caPath is the path in the
// guest of the mounted PEM file that the guest should trust, "" for none. The
// error wraps one *VarError for each variable that cannot be passed.
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

// trustVars are the variables that name a file of certificates to trust. Programs
// disagree about the name. All but NODE_EXTRA_CA_CERTS and DENO_CERT replace the
// certificates that a program trusts otherwise, so the file must hold these too.
var trustVars = []string{
	"SSL_CERT_FILE", // OpenSSL and what uses it, Go, uv
	"NODE_EXTRA_CA_CERTS",
	"REQUESTS_CA_BUNDLE",
	"PIP_CERT",
	"CURL_CA_BUNDLE",
	"GIT_SSL_CAINFO",
	"CARGO_HTTP_CAINFO",
	"DENO_CERT",
	"AWS_CA_BUNDLE",
	"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", // gRPC for Python, Ruby, PHP and C++
	"NIX_SSL_CERT_FILE",
	"CODEX_CA_CERTIFICATE",
	"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
	"YARN_HTTPS_CA_FILE_PATH",
	"BUNDLE_SSL_CA_CERT", // Ruby's Bundler
	"HEX_CACERTS_PATH",   // Elixir
}

// operators returns the operator's variables. They hold IP addresses, because the
// guest has no resolver. Proxy variables exist in upper and lower case, because
// programs disagree about the case.
func operators(bundleIP netip.Addr, caPath string) map[string]Var {
	proxy := fmt.Sprintf("http://%s:%d", bundleIP, ProxyPort)
	direct := strings.Join(directHosts(bundleIP), ",")
	values := map[string]string{
		"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "https_proxy": proxy, "http_proxy": proxy,
		"NO_PROXY": direct, "no_proxy": direct,
		"NODE_USE_ENV_PROXY": "1",
		javaOptionsVar:       javaOptions(bundleIP),
		"BOTTLE_BUNDLE_IP":   bundleIP.String(),
	}
	if caPath != "" {
		for _, name := range trustVars {
			values[name] = caPath
		}
	}
	out := make(map[string]Var, len(values))
	for name, value := range values {
		out[name] = Var{Name: name, Value: value}
	}
	return out
}

// directHosts are the hosts that programs reach without the proxy: the guest itself,
// under each of its names, and the bundle.
func directHosts(bundleIP netip.Addr) []string {
	return []string{"localhost", "127.0.0.1", "::1", "0.0.0.0", bundleIP.String()}
}

// javaOptions returns the options that make Java use the proxy: Java reads no proxy
// variable. Every JVM reads them from JAVA_TOOL_OPTIONS; JDK_JAVA_OPTIONS reaches only
// the java command, from release 9 on. The last option is for Maven, whose transport
// otherwise ignores the JVM's proxy.
func javaOptions(bundleIP netip.Addr) string {
	options := []string{
		fmt.Sprintf("-Dhttp.proxyHost=%s -Dhttp.proxyPort=%d", bundleIP, ProxyPort),
		fmt.Sprintf("-Dhttps.proxyHost=%s -Dhttps.proxyPort=%d", bundleIP, ProxyPort),
		// It applies to https too.
		fmt.Sprintf("-Dhttp.nonProxyHosts=localhost|127.*|[::1]|0.0.0.0|%s", bundleIP),
		"-Daether.connector.http.useSystemProperties=true",
	}
	return strings.Join(options, " ")
}

// Earlier returns, by name, the values that earlier releases set for variables which
// have another value now. A machine that has one of them needs no change: it works
// as it did when it was created.
func Earlier(bundleIP netip.Addr) map[string]string {
	direct := "localhost,127.0.0.1," + bundleIP.String()
	return map[string]string{"NO_PROXY": direct, "no_proxy": direct}
}

// Split separates an environment by how it is passed to the guest: literals in
// the Smolfile, secrets in one file each.
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

// TrimmedByGuest reports whether value ends in white space, which smolvm drops:
// it drops all Unicode white space at the end of a Smolfile entry, and at least
// newlines at the end of a secret file. White space at the start and inside a
// value is kept. The caller should report this once, because nothing else does.
func TrimmedByGuest(value string) bool {
	return strings.TrimRightFunc(value, unicode.IsSpace) != value
}
