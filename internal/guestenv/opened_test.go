// SPDX-License-Identifier: Apache-2.0

package guestenv_test

import (
	"maps"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/guestenv"
)

func opened(t *testing.T, user []guestenv.Var, placeholders ...string) map[string]string {
	t.Helper()
	env, err := guestenv.Build(bundleIP, "", user)
	if err != nil {
		t.Fatal(err)
	}
	values, fromUser := map[string]string{}, map[string]bool{}
	for _, v := range env {
		values[v.Name] = v.Value
	}
	for _, v := range user {
		fromUser[v.Name] = true
	}
	return guestenv.Opened(bundleIP, values, fromUser, placeholders)
}

func TestOpened(t *testing.T) {
	got := opened(t, nil, "API_KEY", "API_KEY", "HTTPS_PROXY", "not a name")
	for name, want := range map[string]string{
		"API_KEY": guestenv.Placeholder, "SSL_CERT_FILE": "/run/bottle/in/trust/bundle.pem",
		"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": "/run/bottle/in/trust/bundle.pem",
	} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	for _, name := range []string{"HTTPS_PROXY", "not a name"} {
		if value, has := got[name]; has {
			t.Errorf("%q: got %q, want it left alone", name, value)
		}
	}
	java := got["JAVA_TOOL_OPTIONS"]
	for _, option := range []string{"-Dhttps.proxyHost=192.168.44.2", " -Djavax.net.ssl.trustStore=/run/bottle/in/trust/truststore.p12 ", "-Djavax.net.ssl.trustStorePassword=changeit"} {
		if !strings.Contains(java, option) {
			t.Errorf("options for Java: got %q, want %q in it", java, option)
		}
	}
}

// TestOpenedUserWins: no variable of the user gets another value.
func TestOpenedUserWins(t *testing.T) {
	all := opened(t, nil, "API_KEY")
	for name := range maps.Keys(all) {
		got := opened(t, []guestenv.Var{secret(name, "mine")}, "API_KEY")
		if value, has := got[name]; has || len(got) != len(all)-1 {
			t.Errorf("%s: got %q and %d variables, want the user's value and %d others", name, value, len(got), len(all)-1)
		}
	}
}
