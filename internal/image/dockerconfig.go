// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// dockerConfig is what a docker config says. Its texts say why it holds no
// credentials. They quote nothing of it.
type dockerConfig struct {
	// from is the name of the pull secret, "" for the node's own config.
	from string
	// auths maps a registry, optionally with a path, to credentials.
	auths map[string]authn.AuthConfig
	// faulty maps the keys of the other entries to what is wrong with them.
	faulty map[string]string
	// unusable says why there are no credentials in it at all, "" if there are.
	unusable string
}

const (
	notConfig    = "it is not a docker config in JSON"
	encodedTwice = "it is encoded with base64 twice: store the JSON of the docker config itself"
	usesHelper   = "it leaves the credentials to a helper (credsStore or credHelpers), as Docker Desktop writes it, and the agent runs no helpers"
	badAuths     = "its auths are not a JSON object"
	noEntries    = "its auths are empty"
	emptyEntry   = "is empty"
	notBase64    = "has an auth that is not the base64 of USER:PASSWORD"
	notEntry     = "is not a JSON object"
)

// parseConfig reads .dockerconfigjson (the same as config.json) or else
// .dockercfg.
func parseConfig(data []byte) dockerConfig {
	var outer struct {
		Auths       map[string]json.RawMessage `json:"auths"`
		CredsStore  string                     `json:"credsStore"`
		CredHelpers map[string]string          `json:"credHelpers"`
	}
	var entries map[string]json.RawMessage
	switch {
	case len(data) > maxConfigBytes:
		return dockerConfig{unusable: fmt.Sprintf("it has more than %s", bytesText(maxConfigBytes))}
	case json.Unmarshal(data, &outer) == nil && outer.Auths != nil:
		entries = outer.Auths
	case json.Unmarshal(data, &entries) != nil || entries == nil:
		if decoded, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(data))); err == nil && json.Valid(decoded) {
			return dockerConfig{unusable: encodedTwice}
		}
		return dockerConfig{unusable: notConfig}
	case isSet(entries["auths"]):
		return dockerConfig{unusable: badAuths}
	default: // .dockercfg, or a config.json without auths
		maps.DeleteFunc(entries, func(_ string, raw json.RawMessage) bool { return !isEntry(raw) })
	}
	c := dockerConfig{auths: map[string]authn.AuthConfig{}, faulty: map[string]string{}}
	for key, raw := range entries {
		auth, fault := parseEntry(raw)
		if fault != "" {
			c.faulty[key] = fault
			continue
		}
		c.auths[key] = auth
	}
	helper := outer.CredsStore != "" || len(outer.CredHelpers) > 0
	for key, fault := range c.faulty {
		if helper && fault == emptyEntry {
			delete(c.faulty, key) // Docker Desktop writes an empty entry for each registry
		}
	}
	switch {
	case len(c.auths) > 0:
	case helper:
		c.unusable = usesHelper
	case len(c.faulty) == 0:
		c.unusable = noEntries
	}
	return c
}

func isSet(raw json.RawMessage) bool { return len(raw) > 0 && !bytes.Equal(raw, []byte("null")) }

// isEntry reports whether this is an entry of a .dockercfg, and not another setting of
// a config.json.
func isEntry(raw json.RawMessage) bool {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return false
	}
	return slices.ContainsFunc([]string{"auth", "username", "password", "identitytoken", "registrytoken"}, func(f string) bool {
		_, ok := fields[f]
		return ok
	})
}

// parseEntry returns the credentials of an entry, or what is wrong with it.
func parseEntry(raw json.RawMessage) (auth authn.AuthConfig, fault string) {
	var fields map[string]json.RawMessage
	switch {
	case json.Unmarshal(raw, &fields) != nil:
		return auth, notEntry
	case json.Unmarshal(raw, &auth) != nil:
		return authn.AuthConfig{}, notBase64
	case auth == (authn.AuthConfig{}):
		return auth, emptyEntry
	}
	return auth, ""
}

// problem says why the config holds no credentials for the repository, "" if it does.
func (c dockerConfig) problem(repo name.Repository) string {
	for key := range c.auths {
		if matches(key, repo) {
			return ""
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.faulty)) {
		if matches(key, repo) {
			return "its entry for " + repo.RegistryStr() + " " + c.faulty[key]
		}
	}
	if c.unusable != "" {
		return c.unusable
	}
	return "it has no entry for " + repo.RegistryStr()
}

// maxProblems bounds the pull secrets that a message names.
const maxProblems = 4

// problems says which pull secrets hold no credentials for the repository, and why; ""
// if all of them do.
func (k keyring) problems(repo name.Repository) string {
	var out []string
	for _, c := range k.secrets {
		if p := c.problem(repo); p != "" {
			out = append(out, fmt.Sprintf("Secret %s: %s", c.from, p))
		}
	}
	if more := len(out) - maxProblems; more > 0 {
		out = append(out[:maxProblems], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, "; ")
}
