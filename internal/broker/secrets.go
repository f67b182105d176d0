// SPDX-License-Identifier: Apache-2.0

package broker

import (
	"bytes"
	"context"
	"errors"
	"time"
	"unicode"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/brokerfile"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/namedwatch"
)

// credential names one key of a Secret.
type credential struct{ secret, key string }

// wanted returns what the bundle of b needs: true for a credential that it adds, false
// for a value that it only looks for.
func wanted(b *v1alpha1.Bottle) map[credential]bool {
	out := map[credential]bool{}
	for _, v := range b.Spec.Env {
		if v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
			out[credential{v.ValueFrom.SecretKeyRef.Name, v.ValueFrom.SecretKeyRef.Key}] = false
		}
	}
	for _, rule := range desired.OpenRules(b) {
		if rule.Credential != nil {
			out[credential{rule.Credential.SecretKeyRef.Name, rule.Credential.SecretKeyRef.Key}] = true
		}
	}
	return out
}

func refOf(b *v1alpha1.Bottle, c credential) namedwatch.Ref {
	return namedwatch.Ref{Kind: namedwatch.Secret, Namespace: b.Namespace, Name: c.secret}
}

// await waits a few seconds for Secrets that the manager has not told of yet, because the
// Bottle is new or the agent was just started.
func (r *Broker) await(ctx context.Context, b *v1alpha1.Bottle) {
	if len(desired.OpenRules(b)) == 0 {
		return
	}
	for c := range wanted(b) {
		if _, err := r.References.Get(ctx, b, refOf(b, c)); errors.Is(err, envsource.ErrNotYet) {
			return // the others would take as long
		}
	}
}

// valuesOf returns what the bundle is to have now, given what it had. Of a Secret or key
// that does not exist, it has nothing. What cannot be read now stays as it was.
func (r *Broker) valuesOf(b *v1alpha1.Bottle, had map[credential]brokerfile.Secret) []brokerfile.Secret {
	var out []brokerfile.Secret
	for c, added := range wanted(b) {
		object, err := r.References.Peek(b, refOf(b, c))
		now := brokerfile.Secret{Secret: c.secret, Key: c.key, ResourceVersion: object.ResourceVersion}
		switch {
		case errors.Is(err, envsource.ErrNotFound):
			continue
		case err != nil:
			now = had[c]
		default:
			now.Value = trimmed(object.Data[c.key])
		}
		now.Credential = added
		if len(now.Value) > 0 {
			out = append(out, now)
		}
	}
	return out
}

// trimmed returns the value without white space at its end, which reaches no guest and
// belongs in no header.
func trimmed(value []byte) []byte { return bytes.TrimRightFunc(value, unicode.IsSpace) }

// secrets returns what the bundle has. A file that cannot be decoded counts as empty.
func (r *Broker) secrets(ctx context.Context, uid string) (map[credential]brokerfile.Secret, error) {
	data, err := r.Vault.ReadFile(ctx, uid, brokerfile.SecretsFile)
	if errors.Is(err, host.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := brokerfile.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, nil
	}
	out := make(map[credential]brokerfile.Secret, len(list))
	for _, s := range list {
		out[credential{s.Secret, s.Key}] = s
	}
	return out, nil
}

// note notes since when the bundle has its credentials, given what it had before. The
// time of what an earlier agent gave it is unknown, and stays zero. The caller holds the
// lock of the Bottle.
func (r *Broker) note(ctx context.Context, uid string, had map[credential]brokerfile.Secret) error {
	has, err := r.secrets(ctx, uid)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	before, noted := r.got[uid]
	now := map[credential]version{}
	for c, s := range has {
		if !s.Credential {
			continue
		}
		v := version{resourceVersion: s.ResourceVersion}
		switch {
		case before[c].resourceVersion == v.resourceVersion:
			v = before[c]
		case noted || had[c].ResourceVersion != v.resourceVersion:
			v.since = r.Clock.Now()
		}
		now[c] = v
	}
	r.got[uid] = now
	return nil
}

func (r *Broker) forget(uid string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.got, uid)
}

// Credentials returns which versions of its credentials the bundle of b has, in the order
// of its rules. The status of b tells since when the bundle has what an earlier agent
// gave it.
func (r *Broker) Credentials(b *v1alpha1.Bottle) []v1alpha1.CredentialStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []v1alpha1.CredentialStatus
	listed := map[credential]bool{}
	for _, rule := range desired.OpenRules(b) {
		if rule.Credential == nil {
			continue
		}
		c := credential{rule.Credential.SecretKeyRef.Name, rule.Credential.SecretKeyRef.Key}
		v, has := r.got[string(b.UID)][c]
		if !has || listed[c] {
			continue
		}
		listed[c] = true
		if v.since.IsZero() {
			v.since = r.reported(b, c, v.resourceVersion)
			r.got[string(b.UID)][c] = v
		}
		out = append(out, v1alpha1.CredentialStatus{
			SecretName: c.secret, Key: c.key, ResourceVersion: v.resourceVersion, Since: metav1.NewTime(v.since.Truncate(time.Second)),
		})
	}
	return out
}

// reported returns since when the bundle has this version according to the status of b,
// or now if the status does not say.
func (r *Broker) reported(b *v1alpha1.Bottle, c credential, resourceVersion string) time.Time {
	if b.Status.Egress != nil {
		for _, s := range b.Status.Egress.Credentials {
			if s.SecretName == c.secret && s.Key == c.key && s.ResourceVersion == resourceVersion {
				return s.Since.Time
			}
		}
	}
	return r.Clock.Now()
}
