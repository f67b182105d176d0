// SPDX-License-Identifier: Apache-2.0

// Package pending finds out which fields of a Bottle its machine does not have yet. It
// is pure: it knows what was recorded of the machine, and looks at no machine.
package pending

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/desired"
	"botbottle.dev/bottle-operator/internal/guestenv"
	"botbottle.dev/bottle-operator/internal/machinesize"
	"botbottle.dev/bottle-operator/internal/state"
)

// Wanted is what a machine would be created from now.
type Wanted struct {
	Bottle *v1alpha1.Bottle
	// Literals go into the Smolfile, Secrets into files. FromUser names the variables of
	// spec.env.
	Literals, Secrets map[string]string
	FromUser          map[string]bool
	BundleIP          netip.Addr
	// BundleDiffers: the bundle that runs was made for an earlier spec.bundle, and is
	// replaced when the machine is down.
	BundleDiffers bool
}

// How the user applies a change.
const (
	ByRecreating = "annotate the Bottle with botbottle.dev/recreatedAt for a new machine (its disk is lost)"
	ByRestarting = "annotate the Bottle with botbottle.dev/restartedAt to restart the machine"
)

// Fields returns the fields that have changed since the machine of the record was
// created, and what applies them.
func Fields(rec *state.Record, w Wanted) (fields []string, how string) {
	b := w.Bottle
	env := rec.EnvDiffers(w.Literals, w.FromUser, guestenv.Earlier(w.BundleIP)) || !rec.SameSecretNames(w.Secrets)
	secrets := !maps.Equal(rec.Secrets, state.Hashes(rec.Salt, w.Secrets))
	rules := rulesDiffer(rec, w)
	for _, field := range []struct {
		name   string
		differ bool
	}{
		{"spec.env", env || secrets},
		{"spec.image", rec.Image != ptr.Deref(b.Spec.Image, "")},
		{"spec.artifact", rec.Artifact != Artifact(b)},
		{"spec.command", !slices.Equal(rec.Command, b.Spec.Command)},
		{"spec.machine", rec.Size != machinesize.Of(b.Spec.Machine)},
		{"spec.bundle", w.BundleDiffers},
		{"spec.bundle.caPath", (rec.CAPath == "") != (desired.CAPath(b) == "")},
		{"spec.egress.rules", rules},
		{"status.network", rec.BundleIP != w.BundleIP.String()},
	} {
		if field.differ {
			fields = append(fields, field.name)
		}
	}
	// When a machine starts, it reads the values of Secrets again, and its supervisor
	// tells the workload which authorities to trust.
	byStart := 0
	if w.BundleDiffers {
		byStart++
	}
	if secrets && !env {
		byStart++
	}
	if rules && rec.Workload.Out != "" {
		byStart++
	}
	if len(fields) == byStart {
		return fields, ByRestarting
	}
	return fields, ByRecreating
}

// rulesDiffer reports whether the guest has yet to trust its bundle, or lacks a
// placeholder. What it has in excess does no harm.
func rulesDiffer(rec *state.Record, w Wanted) bool {
	if len(desired.OpenRules(w.Bottle)) == 0 {
		return false
	}
	if !rec.Trusts {
		return true
	}
	return slices.ContainsFunc(desired.Placeholders(w.Bottle), func(name string) bool {
		return !w.FromUser[name] && !slices.Contains(rec.Placeholders, name)
	})
}

// Message is the message about fields that are pending.
func Message(fields []string, how string) string {
	return "not yet in force: " + strings.Join(fields, ", ") + "; " + how
}

// Artifact returns spec.artifact in its recorded form; zero if there is none.
func Artifact(b *v1alpha1.Bottle) state.Artifact {
	if a := b.Spec.Artifact; a != nil {
		return state.Artifact{Path: ptr.Deref(a.Path, ""), Reference: ptr.Deref(a.Reference, ""), SHA256: ptr.Deref(a.SHA256, "")}
	}
	return state.Artifact{}
}
