// SPDX-License-Identifier: Apache-2.0

package bottle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/bundlespec"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/envsource"
	"botbottle.dev/bottle-operator/internal/guestca"
	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/outcome"
	"botbottle.dev/bottle-operator/internal/smolfile"
)

// smolfileStep writes the Smolfile, and the files with the values of Secrets.
type smolfileStep struct {
	references envsource.Reader
	machines   host.Machines
	events     *reporter
	causes     outcome.Causes
}

// ensure writes the Smolfile and, if this smolvm reads them, files for Secrets.
func (f *smolfileStep) ensure(ctx context.Context, s *scope) error {
	user, err := envsource.Resolve(ctx, f.references, s.bottle, s.bottle.Spec.Env)
	if err != nil {
		return err
	}
	caFile := ""
	if desired.CAPath(s.bottle) != "" {
		caFile = guestca.File
	}
	env, err := guestenv.Build(s.triple.BundleIP, caFile, user)
	if err != nil {
		return bundlespec.InvalidEnv(err)
	}
	s.version, err = f.machines.Version(ctx)
	if err != nil {
		// Without smolvm it is unknown how to pass Secrets. A Smolfile without
		// Secrets suits every version.
		if !errors.Is(err, host.ErrUnavailable) || hasSecret(env) {
			return outcome.Map(err, f.causes.Smolvm(ctx))
		}
	}
	s.literals, s.secrets = guestenv.Split(env)
	s.fromUser = make(map[string]bool, len(user))
	for _, v := range user {
		s.fromUser[v.Name] = true
	}
	if !s.version.SecretFiles {
		for name, value := range s.secrets {
			s.literals[name] = value
		}
		s.secrets = nil
	}
	if len(desired.OpenRules(s.bottle)) > 0 {
		s.opened = guestenv.Opened(s.triple.BundleIP, s.literals, s.fromUser, desired.Placeholders(s.bottle))
	}
	return f.write(s, env)
}

func (f *smolfileStep) write(s *scope, env []guestenv.Var) error {
	data, err := smolfile.Render(smolfile.Smolfile{
		Env: s.environment(), BundleIP: s.triple.BundleIP, Size: machinesize.Of(s.bottle.Spec.Machine).Within(s.bottle.Status.Resources),
	})
	if err != nil {
		return bundlespec.InvalidEnv(err)
	}
	var kept []string
	if s.record != nil {
		kept = slices.Collect(maps.Keys(s.record.Secrets))
	}
	changed, err := s.folder.WriteSecrets(s.secrets, kept...)
	if err != nil {
		return err
	}
	wrote, err := s.folder.WriteSmolfile(data)
	if err != nil {
		return err
	}
	written := changed
	if wrote {
		written = slices.AppendSeq(written, maps.Keys(s.literals))
	}
	if s.bottle.Spec.Artifact == nil { // flags keep the white space
		f.reportTrimmed(s, env, written)
	}
	sum := sha256.Sum256(data)
	s.status.Smolfile = &v1alpha1.SmolfileStatus{Path: s.folder.SmolfilePath(), SHA256: hex.EncodeToString(sum[:])}
	return nil
}

// environment returns the literals that a new machine gets.
func (s *scope) environment() map[string]string {
	all := maps.Clone(s.literals)
	maps.Copy(all, s.opened)
	return all
}

// reportTrimmed reports the values that lose the white space at their end. It
// does so once, when a value is written.
func (f *smolfileStep) reportTrimmed(s *scope, env []guestenv.Var, written []string) {
	var names []string
	for _, v := range env {
		if guestenv.TrimmedByGuest(v.Value) && slices.Contains(written, v.Name) {
			names = append(names, v.Name)
		}
	}
	if len(names) > 0 {
		f.events.event(s, "Warning", eventWhiteSpaceDropped, "white space at the end of a value does not reach the guest: "+strings.Join(names, ", "))
	}
}

func hasSecret(env []guestenv.Var) bool {
	for _, v := range env {
		if v.Secret {
			return true
		}
	}
	return false
}
