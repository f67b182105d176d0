// SPDX-License-Identifier: Apache-2.0

package guestenv

import (
	"net/netip"

	"botbottle.dev/bottle-operator/internal/supervise"
)

// Placeholder is the value of the variables that stand for credentials which the bundle
// adds. It is not a secret.
const Placeholder = "bottle-placeholder-credential-added-by-the-bundle"

// StorePassword is the password of the store of certificates for JVMs, which has
// nothing secret. It is the one that Java's own store has.
const StorePassword = "changeit"

const javaOptionsVar = "JAVA_TOOL_OPTIONS"

// The files in the guest with the authorities to trust.
const (
	trustedPEM   = supervise.In + "/" + supervise.TrustDir + "/" + supervise.PEMFile
	trustedStore = supervise.In + "/" + supervise.TrustDir + "/" + supervise.StoreFile
)

// Opened returns the variables that a guest needs in addition if its bundle opens
// connections, by name: what makes its programs trust the Bottle's authority, and
// placeholders under these names. The environment is what Build returned. Variables that
// it has already keep their values, apart from the operator's own options for Java, which
// are extended; fromUser names the user's variables.
func Opened(bundleIP netip.Addr, environment map[string]string, fromUser map[string]bool, placeholders []string) map[string]string {
	out := map[string]string{}
	for _, name := range placeholders {
		out[name] = Placeholder
	}
	for _, name := range trustVars {
		out[name] = trustedPEM
	}
	for name := range out {
		if _, has := environment[name]; has || fromUser[name] || !ValidName(name) {
			delete(out, name)
		}
	}
	if !fromUser[javaOptionsVar] {
		out[javaOptionsVar] = javaOptions(bundleIP) + " -Djavax.net.ssl.trustStore=" + trustedStore +
			" -Djavax.net.ssl.trustStoreType=PKCS12 -Djavax.net.ssl.trustStorePassword=" + StorePassword
	}
	return out
}
