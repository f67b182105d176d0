// SPDX-License-Identifier: Apache-2.0

package accesscert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

var noFuncs interceptor.Funcs

// Replicas share one CA, whichever of them makes it.
func TestReplicasShareTheCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var second *Authority
		raced := false
		c := newClient(interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if !raced { // the second replica is faster
				raced = true
				check(t, second)
			}
			return c.Create(ctx, o, opts...)
		}})
		first := newReplica(c)
		second = newReplica(c)
		check(t, first)
		a, b := first.issued().authorities.current.cert, second.issued().authorities.current.cert
		if !raced || !a.Equal(b) {
			t.Errorf("got CAs %s and %s, want the same one", a.Subject, b.Subject)
		}
		key, _ := first.Serving().CurrentCertKeyContent()
		other, _ := second.Serving().CurrentCertKeyContent()
		if slices.Equal(key, other) {
			t.Error("got the same serving certificate twice, want one for each replica")
		}
	})
}

// A CA that cannot be read is left alone.
func TestDamagedSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		secret := &corev1.Secret{}
		key := client.ObjectKey{Namespace: testNamespace, Name: SecretName}
		if err := w.Get(t.Context(), key, secret); err != nil {
			t.Fatal(err)
		}
		secret.Data[currentKey] = []byte("x")
		if err := w.Update(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		before := w.authority.issued()
		if err := w.authority.check(t.Context()); err == nil {
			t.Error("got no error, want one")
		}
		if w.authority.issued() != before {
			t.Error("got other certificates, want those from before")
		}
		if err := w.Get(t.Context(), key, secret); err != nil || string(secret.Data[currentKey]) != "x" {
			t.Errorf("got %q, %v, want the Secret as it was", secret.Data[currentKey], err)
		}
	})
}

// The serving certificate is one for the Service alone, and its listeners are told of
// each new one.
func TestServingCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var listener counter
		serving := w.authority.Serving()
		serving.AddListener(&listener)
		leafOf := func() *x509.Certificate {
			t.Helper()
			cert, key := serving.CurrentCertKeyContent()
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			return pair.Leaf
		}
		first := leafOf()
		verify := x509.VerifyOptions{DNSName: "bottle-manager-access.bottle-system.svc", Roots: w.authority.issued().authorities.pool(), CurrentTime: time.Now()}
		if _, err := first.Verify(verify); err != nil {
			t.Error(err)
		}
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageCodeSigning} {
			verify.KeyUsages = []x509.ExtKeyUsage{usage}
			if _, err := first.Verify(verify); err == nil {
				t.Errorf("usage %d: got it valid, want it not", usage)
			}
		}
		pass(15 * time.Hour)
		check(t, w.authority)
		if listener != 0 || !leafOf().Equal(first) {
			t.Errorf("after 15 hours: told %d times, want the same certificate", listener)
		}
		pass(2 * time.Hour)
		check(t, w.authority)
		if listener != 1 || leafOf().Equal(first) {
			t.Errorf("after 17 hours: told %d times, want a new certificate", listener)
		}
	})
}

type counter int

func (c *counter) Enqueue() { *c++ }

// The caBundle is written if it differs. A missing APIService is not made.
func TestBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		got := apiService()
		key := client.ObjectKey{Name: APIServiceName}
		if err := w.Get(t.Context(), key, got); !apierrors.IsNotFound(err) {
			t.Fatalf("got %v, want no APIService", err)
		}
		service := apiService()
		if err := unstructured.SetNestedField(service.Object, int64(15), "spec", "versionPriority"); err != nil {
			t.Fatal(err)
		}
		if err := w.Create(t.Context(), service); err != nil {
			t.Fatal(err)
		}
		for _, before := range []string{"", "eA=="} {
			if err := unstructured.SetNestedField(service.Object, before, "spec", "caBundle"); err != nil {
				t.Fatal(err)
			}
			if err := w.Update(t.Context(), service); err != nil {
				t.Fatal(err)
			}
			check(t, w.authority)
			if err := w.Get(t.Context(), key, service); err != nil {
				t.Fatal(err)
			}
			bundle, _, _ := unstructured.NestedString(service.Object, "spec", "caBundle")
			priority, _, _ := unstructured.NestedInt64(service.Object, "spec", "versionPriority")
			if bundle != base64.StdEncoding.EncodeToString(w.authority.issued().authorities.bundlePEM()) || priority != 15 {
				t.Errorf("got %v, want the CA and nothing else changed", service.Object["spec"])
			}
		}
		version := service.GetResourceVersion()
		check(t, w.authority)
		if err := w.Get(t.Context(), key, service); err != nil || service.GetResourceVersion() != version {
			t.Errorf("got another write (%v), want none", err)
		}
	})
}

// Each new CA is in the bundle for two days before it signs, and the manager, an agent
// and the API server trust each other at all times. The test runs for 500 days, and
// skips most of the days on which nothing changes. The agent does not run on those, so that
// it does not renew its certificate a thousand times.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := newReplica(w)
		check(t, other)
		k := w.keeper(t, testNode)
		stop := start(t, k)
		var signers []string
		trusted := map[string]time.Time{}
		begin := time.Now()
		for quiet := 0; time.Since(begin) < 530*24*time.Hour; quiet++ {
			now := w.authority.issued().authorities
			for _, ca := range now.bundle() {
				if _, known := trusted[ca.Subject.CommonName]; !known {
					trusted[ca.Subject.CommonName], quiet = time.Now(), 0
				}
			}
			if name := now.current.cert.Subject.CommonName; !slices.Contains(signers, name) {
				if since := time.Since(trusted[name]); len(signers) > 0 && since < overlap {
					t.Errorf("the new CA signs after %s, want at least %s", since, overlap)
				}
				signers, quiet = append(signers, name), 0
			}
			if _, err := other.issued().serving.Leaf.Verify(x509.VerifyOptions{Roots: now.pool(), CurrentTime: time.Now()}); err != nil {
				t.Fatalf("after %s: the API server with the bundle of one replica refuses the other: %v", time.Since(begin), err)
			}
			for name, replica := range map[string]*Authority{"one replica": w.authority, "the other replica": other} {
				if serverErr, clientErr := connect(k.ServerConfig(), clientOf(t, replica)); serverErr != nil || clientErr != nil {
					t.Fatalf("after %s, %s: got %v, %v, want a connection", time.Since(begin), name, serverErr, clientErr)
				}
			}
			if quiet > 8 { // three days
				quiet = 0
				stop()
				pass(25 * 24 * time.Hour)
				k = NewKeeper(k.options)
				stop = start(t, k)
			}
			// The replicas check at different times, so they use different CAs for a while.
			pass(4 * time.Hour)
			check(t, w.authority)
			pass(4 * time.Hour)
			check(t, other)
		}
		if len(signers) != 3 {
			t.Errorf("got %d CAs in 530 days, want 3", len(signers))
		}
	})
}

// A CA that expired while no manager ran is replaced at once.
func TestExpiredCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		old := w.authority.issued().authorities.current.cert
		pass(400 * 24 * time.Hour)
		check(t, w.authority)
		if got := w.authority.issued().authorities; got.current.cert.Equal(old) || len(got.bundle()) != 1 {
			t.Errorf("got %d CAs, want one new one", len(got.bundle()))
		}
	})
}

// Start checks at once and then again and again, and reports when there are certificates.
func TestStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		down.Store(true)
		c := newClient(interceptor.Funcs{Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if down.Load() {
				return errors.New("down")
			}
			return c.Get(ctx, key, o, opts...)
		}})
		a := newReplica(c)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Start(ctx) }()
		pass(time.Second)
		if _, err := a.ClientConfig(testNode); !errors.Is(err, ErrNotReady) {
			t.Errorf("got %v, want ErrNotReady", err)
		}
		if cert, _ := a.Serving().CurrentCertKeyContent(); cert != nil {
			t.Error("got a serving certificate, want none yet")
		}
		down.Store(false)
		<-a.Ready()
		clientOf(t, a)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
