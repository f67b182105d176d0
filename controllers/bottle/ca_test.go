// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/guestca"
	"botbottle.dev/bottle-operator/internal/host"
)

const containersCA = "/etc/bundle/ca.pem"

// certificate returns a new certificate and its key in PEM.
func certificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// trusting returns a world with a Bottle that trusts the certificates of its
// foreign bundle.
func trusting(t *testing.T) *world {
	t.Helper()
	b := demo().BundleImage(foreignImage)
	b.Spec.Bundle.CAPath = ptr.To(containersCA)
	w := newWorld(t, b.Obj())
	w.allowed = []string{"ghcr.io/org/*"}
	w.restartAgent()
	w.bundles.AddImage(foreignImage, 8888)
	return w
}

func TestTheGuestTrustsItsBundle(t *testing.T) {
	w := trusting(t)
	for range 3 {
		if _, err := w.pass(demoKey); err != nil {
			t.Fatal(err)
		}
	}
	w.wantCond(demoKey, v1alpha1.ConditionBundleReady, "False/BundleCANotFound")
	cert, key := certificate(t)
	w.bundles.PutFile(ownerOfDemo(), containersCA, append(slices.Clone(cert), key...))
	if _, err := w.pass(demoKey); err != nil {
		t.Fatal(err)
	}
	w.wantCond(demoKey, v1alpha1.ConditionBundleReady, "False/BundleCAInvalid")
	if got := w.message(demoKey, v1alpha1.ConditionBundleReady); strings.Contains(got, "BEGIN") {
		t.Errorf("message: got %q, want no part of the file", got)
	}
	if names := w.machines.Names(); len(names) != 0 {
		t.Errorf("machines: got %v, want none before there are certificates to trust", names)
	}
	w.bundles.PutFile(ownerOfDemo(), containersCA, cert)
	w.clock.Step(externalDelay)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")

	_, spec, _ := w.machines.Get(testID)
	folder, err := w.r.State.Folder(testUID)
	if err != nil {
		t.Fatal(err)
	}
	if want := []host.Mount{{Source: folder.CADir(), Target: guestca.Dir}}; !slices.Equal(spec.Mounts, want) {
		t.Errorf("mounts: got %+v, want %+v", spec.Mounts, want)
	}
	if got := w.machines.GuestEnv(testID); !slices.Contains(got, "SSL_CERT_FILE="+guestca.File) || !slices.Contains(got, "NODE_EXTRA_CA_CERTS="+guestca.File) {
		t.Errorf("guest env: got %q, want it to name %s", got, guestca.File)
	}
	if got, err := os.ReadFile(filepath.Join(folder.CADir(), "bundle.pem")); err != nil || !bytes.HasPrefix(got, cert) || bytes.Count(got, []byte("-----BEGIN")) < 100 {
		t.Errorf("mounted file: got %q, %v, want the certificate and the public authorities", got, err)
	}

	// A recreated bundle may have other certificates.
	other, _ := certificate(t)
	w.bundles.PutFile(ownerOfDemo(), containersCA, other)
	w.settle(demoKey)
	if got, _ := os.ReadFile(filepath.Join(folder.CADir(), "bundle.pem")); !bytes.HasPrefix(got, other) || bytes.Contains(got, cert) {
		t.Error("mounted file after a change: got the old one, want the new one")
	}
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "")
	w.remove()
	if _, err := os.Stat(folder.CADir()); !os.IsNotExist(err) {
		t.Errorf("folder after deletion: got %v, want it gone", err)
	}
}

func TestTrustThatIsAddedLaterWaitsForANewMachine(t *testing.T) {
	w := running(t)
	cert, _ := certificate(t)
	w.bundles.PutFile(ownerOfDemo(), containersCA, cert)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Bundle = &v1alpha1.Bundle{CAPath: ptr.To(containersCA)} })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "True/SpecChanged")
	if got := w.message(demoKey, v1alpha1.ConditionPendingRestart); !strings.Contains(got, "spec.bundle.caPath") {
		t.Errorf("message: got %q, want the field named", got)
	}
	w.annotate(v1alpha1.AnnotationRecreatedAt, "now")
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "")
}
