// SPDX-License-Identifier: Apache-2.0

package broker_test

import (
	"context"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	testclock "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/broker"
	"botbottle.dev/bottle-operator/internal/brokerfile"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
	"botbottle.dev/bottle-operator/internal/namedwatch"
)

const uid = "1a2b3c4d-0000-4000-8000-000000000000"

// references has one value for every Secret.
type references struct{}

func (references) Get(context.Context, *v1alpha1.Bottle, namedwatch.Ref) (map[string][]byte, error) {
	return map[string][]byte{"token": []byte("value-of-the-credential")}, nil
}

func (r references) Peek(b *v1alpha1.Bottle, ref namedwatch.Ref) (envsource.Object, error) {
	data, err := r.Get(context.Background(), b, ref)
	return envsource.Object{Data: data, ResourceVersion: "1"}, err
}

// stalledExchanges are on a disk that does not answer until it is released.
type stalledExchanges struct {
	host.Exchanges
	called, release chan struct{}
}

func (e stalledExchanges) WriteTrust(context.Context, string, []byte) (string, error) {
	close(e.called)
	<-e.release
	return "", nil
}

// TestARevocationDoesNotWaitForTheDisk checks that a bundle loses a credential while a pass
// waits for the disk on which the guest's trust is, and that this pass does not give it back.
func TestARevocationDoesNotWaitForTheDisk(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	b := &v1alpha1.Bottle{}
	b.Namespace, b.Name, b.UID, b.Generation = "default", "demo", uid, 1
	b.Spec.Egress = &v1alpha1.Egress{Rules: []v1alpha1.HTTPRule{{
		Host: "api.example.com", Credential: &v1alpha1.Credential{SecretKeyRef: v1alpha1.SecretKeySelector{Name: "creds", Key: "token"}},
	}}}
	api := fake.NewClientBuilder().WithScheme(scheme).WithObjects(b).Build()
	vault := hosttest.NewVault(&hosttest.Faults{})
	disk := stalledExchanges{called: make(chan struct{}), release: make(chan struct{})}
	r := broker.New(broker.Options{Bottles: api, References: references{}, Vault: vault, Exchanges: disk, Clock: testclock.NewFakePassiveClock(time.Now())})

	passed := make(chan error, 1)
	go func() {
		_, err := r.Ensure(t.Context(), b.DeepCopy())
		passed <- err
	}()
	<-disk.called
	if vault.File(uid, brokerfile.SecretsFile) == nil {
		t.Error("before the revocation: got no credential, want one")
	}
	closed := b.DeepCopy()
	closed.Spec.Egress.Rules = nil
	if err := api.Update(t.Context(), closed); err != nil {
		t.Fatal(err)
	}
	revoked := make(chan error, 1)
	go func() { revoked <- r.Update(t.Context(), closed) }()
	select {
	case err := <-revoked:
		if err != nil {
			t.Errorf("the revocation: got %v, want nil", err)
		}
	case <-time.After(30 * time.Second):
		t.Error("the revocation waits for the disk")
	}
	close(disk.release)
	if err := <-passed; err != nil {
		t.Errorf("the pass: got %v, want nil", err)
	}
	for _, name := range []string{brokerfile.SecretsFile, brokerfile.CAFile} {
		if vault.File(uid, name) != nil {
			t.Errorf("got %s, want nothing left", name)
		}
	}
}
