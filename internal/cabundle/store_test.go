// SPDX-License-Identifier: Apache-2.0

package cabundle_test

import (
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"botbottle.dev/bottle-operator/internal/cabundle"
	"botbottle.dev/bottle-operator/test/require"
)

func TestStore(t *testing.T) {
	certificate, _ := newCertificate(t)
	file := cabundle.WithPublicRoots([]byte(certificate))
	store, err := cabundle.Store(file, "changeit")
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pkcs12.DecodeTrustStore(store, "changeit")
	if err != nil {
		t.Fatal(err)
	}
	var want [][]byte
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		want = append(want, block.Bytes)
	}
	if len(certs) != len(want) || len(want) < 100 {
		t.Fatalf("got %d certificates, want %d", len(certs), len(want))
	}
	for i, cert := range certs {
		if string(cert.Raw) != string(want[i]) {
			t.Errorf("certificate %d: got another one", i)
		}
	}
}

// TestLongJavaReadsTheStore: a JVM takes every certificate as trusted.
func TestLongJavaReadsTheStore(t *testing.T) {
	require.Long(t)
	keytool, err := exec.LookPath("keytool")
	if err != nil {
		require.Unmet(t, "needs keytool: install Debian's default-jdk-headless")
	}
	certificate, _ := newCertificate(t)
	file := cabundle.WithPublicRoots([]byte(certificate))
	store, err := cabundle.Store(file, "changeit")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "store.p12")
	if err := os.WriteFile(path, store, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(keytool, "-list", "-keystore", path, "-storepass", "changeit").CombinedOutput()
	got, want := strings.Count(string(out), "trustedCertEntry"), strings.Count(string(file), "BEGIN CERTIFICATE")
	if err != nil || got != want {
		t.Errorf("got %d trusted certificates, want %d: %v, %.500s", got, want, err, out)
	}
}
