// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bottleca"
	"botbottle.dev/bottle-operator/internal/brokerfile"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/passes"
	"botbottle.dev/bottle-operator/internal/supervise"
)

const planted = "sk-planted-credential-0123456789"

// withRule gives a Bottle a rule with a credential.
func withRule(b *v1alpha1.Bottle) {
	b.Spec.Egress = &v1alpha1.Egress{Rules: []v1alpha1.HTTPRule{{
		Host: "api.example.com",
		Credential: &v1alpha1.Credential{
			SecretKeyRef: v1alpha1.SecretKeySelector{Name: "creds", Key: "token"}, Env: ptr.To("API_KEY"),
		},
	}}}
}

// lending returns a world with a Bottle whose rule has a credential.
func lending(t *testing.T) *world {
	t.Helper()
	b := demo().Command("run").Obj()
	withRule(b)
	w := newWorld(t, b)
	w.refs.put("secrets", "creds", "token", planted+"\n")
	return w
}

// lent returns what the bundle has.
func (w *world) lent() []brokerfile.Secret {
	w.t.Helper()
	data := w.vault.File(testUID, brokerfile.SecretsFile)
	if data == nil {
		return nil
	}
	secrets, err := brokerfile.Decode(bytes.NewReader(data))
	if err != nil {
		w.t.Fatal(err)
	}
	return secrets
}

func (w *world) authority() []byte {
	w.t.Helper()
	file := w.vault.File(testUID, brokerfile.CAFile)
	cert, err := bottleca.CertificateOnly(file)
	if err != nil {
		w.t.Fatal(err)
	}
	return cert
}

// wantTrusted checks that the guest trusts the present authority and does not get its key.
func (w *world) wantTrusted() {
	w.t.Helper()
	x, err := w.exchange.WriteTrust(w.t.Context(), testUID, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(x, supervise.PEMFile))
	if err != nil || !bytes.HasPrefix(pem, w.authority()) || bytes.Contains(pem, []byte("PRIVATE")) {
		w.t.Errorf("what the guest trusts: %v, %.80q", err, pem)
	}
}

func TestBundleGetsCredentials(t *testing.T) {
	w := lending(t)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionReady, "True/Ready")
	got := w.lent()
	if len(got) != 1 || string(got[0].Value) != planted || !got[0].Credential || got[0].ResourceVersion != "1" {
		t.Fatalf("the bundle has %v, want the credential without its line break", got)
	}
	w.wantTrusted()
	status := w.bottle(demoKey).Status.Egress.Credentials
	if len(status) != 1 || status[0].SecretName != "creds" || status[0].Key != "token" || status[0].ResourceVersion != "1" || !status[0].Since.Time.Equal(epoch) {
		t.Errorf("status: got %+v", status)
	}
	orders := w.exchange.Renewed(testUID) // what the supervisor reads first
	if orders.Env["API_KEY"] != guestenv.Placeholder || orders.Env["SSL_CERT_FILE"] == "" {
		t.Errorf("orders of the supervisor: got %v", orders.Env)
	}
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "")
}

// TestCredentialIsNowhereElse searches for the value where it must not be.
func TestCredentialIsNowhereElse(t *testing.T) {
	w := lending(t)
	w.settle(demoKey)
	if len(w.lent()) != 1 {
		t.Fatal("the bundle has no credential, so that nothing can be found")
	}
	for _, dir := range []string{w.stateDir, w.exchangeDir} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if bytes.Contains(data, []byte(planted)) || bytes.Contains(data, []byte("PRIVATE KEY")) {
				t.Errorf("%s has the credential or the key", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	texts := append(append(w.events(), w.faults.Calls()...), string(must(json.Marshal(w.bottle(demoKey)))))
	if slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, planted) }) {
		t.Error("an Event, a call or the Bottle has the credential")
	}
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

func TestCredentialFollowsItsSecret(t *testing.T) {
	w := lending(t)
	w.settle(demoKey)
	authority, orders := w.authority(), w.exchange.Orders(testUID)
	w.refs.put("secrets", "creds", "token", "another-value-of-the-credential")
	update := func() {
		t.Helper()
		if err := w.r.Broker.Update(t.Context(), w.bottle(demoKey)); err != nil {
			t.Fatal(err)
		}
	}
	update()
	if got := w.lent(); len(got) != 1 || string(got[0].Value) != "another-value-of-the-credential" {
		t.Errorf("after a change: the bundle has %v", got)
	}
	w.clock.Step(passes.Resync)
	w.settle(demoKey)
	if got := w.bottle(demoKey).Status.Egress.Credentials; len(got) != 1 || got[0].ResourceVersion != "2" {
		t.Errorf("status after a change: got %+v", got)
	}
	if !bytes.Equal(authority, w.authority()) || w.exchange.Orders(testUID).Start != orders.Start {
		t.Error("the change made another authority, or restarted the machine")
	}
	// While the Secret cannot be read, the bundle keeps what it has.
	w.refs.err = envsource.ErrNotYet
	update()
	if got := w.lent(); len(got) != 1 {
		t.Errorf("while the manager is away: the bundle has %v", got)
	}
	w.refs.err = nil
	w.refs.delete("secrets", "creds")
	update()
	if got := w.lent(); len(got) != 0 {
		t.Errorf("after the removal of the Secret: the bundle has %v", got)
	}
	w.settle(demoKey)
	if e := w.bottle(demoKey).Status.Egress; e != nil && len(e.Credentials) != 0 {
		t.Errorf("status: got %+v", e.Credentials)
	}
	const lacks = "the bundle does not have the credentials creds/token"
	if m := w.message(demoKey, v1alpha1.ConditionBundleReady); !strings.Contains(m, lacks) {
		t.Errorf("BundleReady: got %q, want %q in it", m, lacks)
	}
	w.refs.put("secrets", "creds", "token", planted)
	update()
	w.clock.Step(passes.Resync)
	w.settle(demoKey)
	if m := w.message(demoKey, v1alpha1.ConditionBundleReady); strings.Contains(m, "credentials") {
		t.Errorf("BundleReady with the Secret: got %q", m)
	}
}

// TestNoPassBringsBackWhatWasTakenAway: a pass over an older Bottle uses the newest one.
func TestNoPassBringsBackWhatWasTakenAway(t *testing.T) {
	w := lending(t)
	w.settle(demoKey)
	old := w.bottle(demoKey)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Egress = nil })
	if _, err := w.r.Broker.Ensure(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if w.vault.File(testUID, brokerfile.SecretsFile) != nil || w.vault.File(testUID, brokerfile.CAFile) != nil {
		t.Error("the bundle has files again")
	}
}

func TestAuthorityLivesAsLongAsTheMachineRuns(t *testing.T) {
	w := lending(t)
	w.settle(demoKey)
	first := w.authority()
	w.clock.Step(passes.Resync)
	w.restartAgent()
	w.settle(demoKey)
	if !bytes.Equal(first, w.authority()) {
		t.Error("a restart of the agent made another authority")
	}
	since := w.bottle(demoKey).Status.Egress.Credentials[0].Since
	if !since.Time.Equal(epoch) {
		t.Errorf("since: got %v after a restart of the agent, want %v", since, epoch)
	}
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		b.Annotations = map[string]string{v1alpha1.AnnotationRestartedAt: "now"}
	})
	w.settle(demoKey)
	second := w.authority()
	if bytes.Equal(first, second) {
		t.Error("a restart of the machine kept the authority")
	}
	w.wantTrusted()
	w.vault.Reboot()
	w.restartAgent()
	w.settle(demoKey)
	if bytes.Equal(second, w.authority()) || len(w.lent()) != 1 {
		t.Error("after a reboot of the node: the same authority, or no credential")
	}
	w.wantTrusted()
}

func TestFirstRuleNeedsARestart(t *testing.T) {
	w := newWorld(t, demo().Command("run").Obj())
	w.refs.put("secrets", "creds", "token", planted)
	w.settle(demoKey)
	container := w.bottle(demoKey).Status.Bundle.ContainerID
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "")
	w.update(demoKey, withRule)
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "True/SpecChanged")
	if m := w.message(demoKey, v1alpha1.ConditionPendingRestart); !strings.Contains(m, "spec.egress.rules") || !strings.Contains(m, "restartedAt") {
		t.Errorf("got %q, want the rules and that a restart suffices", m)
	}
	if got := w.bottle(demoKey).Status.Bundle.ContainerID; *got != *container || len(w.lent()) != 1 {
		t.Errorf("the rule is not in force in the same container: %v, %v", *got, w.lent())
	}
	w.update(demoKey, func(b *v1alpha1.Bottle) {
		b.Annotations = map[string]string{v1alpha1.AnnotationRestartedAt: "now"}
	})
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "")
	if env := w.exchange.Orders(testUID).Env; env["API_KEY"] != guestenv.Placeholder {
		t.Errorf("orders after the restart: got %v", env)
	}
	// Without rules, nothing is left, and nothing is pending.
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.Egress = nil })
	w.settle(demoKey)
	w.wantCond(demoKey, v1alpha1.ConditionPendingRestart, "")
	if w.vault.File(testUID, brokerfile.CAFile) != nil || w.lent() != nil {
		t.Error("the bundle keeps its authority or a value")
	}
}

func TestNothingInTheVaultOfABottleThatIsDown(t *testing.T) {
	w := lending(t)
	w.settle(demoKey)
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateStopped })
	w.settle(demoKey)
	if left := w.vault.Left(); len(left) > 0 {
		t.Errorf("stopped: %v are left", left)
	}
	if err := w.r.Broker.Update(t.Context(), w.bottle(demoKey)); err != nil || len(w.vault.Left()) > 0 {
		t.Errorf("an update of a stopped Bottle: got %v, %v", err, w.vault.Left())
	}
	w.update(demoKey, func(b *v1alpha1.Bottle) { b.Spec.DesiredState = v1alpha1.DesiredStateRunning })
	w.settle(demoKey)
	if len(w.lent()) != 1 {
		t.Error("running again: no credential")
	}
	if err := w.api.Delete(t.Context(), w.bottle(demoKey)); err != nil {
		t.Fatal(err)
	}
	w.settle(demoKey)
	if left := w.vault.Left(); len(left) > 0 {
		t.Errorf("deleted: %v are left", left)
	}
}
