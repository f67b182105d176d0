// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"path/filepath"
	"testing"

	"botbottle.dev/bottle-operator/internal/egress"
)

// TestNewValueWaitsForTheRules: a value that the agent wrote after it had removed a rule
// must not reach the host of that rule.
func TestNewValueWaitsForTheRules(t *testing.T) {
	rulesPath := filepath.Join(t.TempDir(), "egress.json")
	writeNew(t, rulesPath, []byte(rulesFile("", credentialRule)))
	ow := &openedWorld{dir: t.TempDir()}
	ow.writeSecrets(t, planted)
	p := newProxy(Options{RulesPath: rulesPath, SecretsDir: ow.dir})
	has := func() string {
		value, _ := p.broker.secrets.Load().value(egress.Credential{Secret: "model", Key: "token"})
		return value
	}
	p.pollFiles(func() { p.rules.poll(1) })
	if len(p.rules.current().AllHTTPRules()) != 1 || has() != planted {
		t.Fatalf("got %v, %q, want the rule and its credential", p.rules.current(), has())
	}
	writeNew(t, rulesPath, []byte(rulesFile("")))
	ow.writeSecrets(t, "sk-the-next-value-of-it")
	p.broker.pollCA() // a guest connects
	if has() != planted {
		t.Error("a guest's connection put the new value into effect before the new rules")
	}
	p.pollFiles(func() {
		if has() != planted {
			t.Error("the new value is in effect before the new rules")
		}
		p.rules.poll(2)
	})
	if len(p.rules.current().AllHTTPRules()) != 0 || has() != "sk-the-next-value-of-it" {
		t.Errorf("got %v, %q, want no rule and the new value", p.rules.current(), has())
	}
}
