// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"botbottle.dev/bottle-operator/internal/host"
)

// maxConfigBytes bounds one docker config; a Secret has at most 1 MiB.
const maxConfigBytes = 1 << 20

// credential is offered to a registry. The zero value is anonymous.
type credential struct {
	auth authn.AuthConfig
	// from is the name of the pull secret, "" for the node's own config.
	from string
}

func (c credential) anonymous() bool { return c.auth == (authn.AuthConfig{}) }

func (c credential) authenticator() authn.Authenticator {
	if c.anonymous() {
		return authn.Anonymous
	}
	return authn.FromConfig(c.auth)
}

// anonymousFingerprint is the fingerprint of no credentials. Anybody may have
// what is granted to it.
const anonymousFingerprint = "anonymous"

// fingerprint identifies credentials without storing them. The key makes it
// worthless elsewhere: a short password cannot be guessed from it.
func (c credential) fingerprint(key []byte, registry string) string {
	if c.anonymous() {
		return anonymousFingerprint
	}
	mac := hmac.New(sha256.New, key)
	a := c.auth
	for _, part := range []string{registry, a.Username, a.Password, a.IdentityToken, a.RegistryToken} {
		_, _ = mac.Write([]byte(part)) // never fails
		_, _ = mac.Write([]byte{0})
	}
	return hex.EncodeToString(mac.Sum(nil))
}

// keyring holds the credentials of one request, in the order in which they are
// tried.
type keyring struct {
	// secrets are the configs of the pull secrets.
	secrets []dockerConfig
	// node is the node's own config. If it cannot be read, the other credentials
	// are still tried.
	node dockerConfig
}

// newKeyring reads the pull secrets, then the node's own config file.
func newKeyring(pullSecrets []host.PullSecret, file string) keyring {
	k := keyring{node: readConfig(file)}
	for _, s := range pullSecrets {
		c := parseConfig(s.Content)
		c.from = s.Name
		k.secrets = append(k.secrets, c)
	}
	return k
}

// readConfig reads the node's docker config. An absent file is empty.
func readConfig(file string) dockerConfig {
	if file == "" {
		return dockerConfig{}
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return dockerConfig{}
	}
	if err != nil {
		return dockerConfig{unusable: "it cannot be read"}
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes))
	if err != nil {
		return dockerConfig{unusable: "it cannot be read"}
	}
	return parseConfig(data)
}

// lookup returns the credentials to offer for the repository: all that match,
// in the order of a kubelet. It returns anonymous only if none match.
func (k keyring) lookup(repo name.Repository) []credential {
	var out []credential
	for _, c := range append(slices.Clone(k.secrets), k.node) {
		keys := make([]string, 0, len(c.auths))
		for key := range c.auths {
			if matches(key, repo) {
				keys = append(keys, key)
			}
		}
		// The longest key is the most specific, so it comes first.
		slices.SortFunc(keys, func(a, b string) int {
			if len(a) != len(b) {
				return len(b) - len(a)
			}
			return strings.Compare(a, b)
		})
		for _, key := range keys {
			cred := credential{auth: c.auths[key], from: c.from}
			if !slices.ContainsFunc(out, func(o credential) bool { return o.auth == cred.auth }) {
				out = append(out, cred)
			}
		}
	}
	if out == nil {
		out = []credential{{}}
	}
	return out
}

// matches reports whether a config's key applies to the repository. A key is
// [SCHEME://]HOST[:PORT][/PATH], where each part of HOST may be a glob. docker
// login writes v1 or v2 as PATH.
func matches(key string, repo name.Repository) bool {
	if _, rest, ok := strings.Cut(key, "://"); ok {
		key = rest
	}
	hostPart, pathPart, _ := strings.Cut(strings.TrimSuffix(key, "/"), "/")
	switch pathPart {
	case "v1", "v2":
		pathPart = ""
	}
	if !matchesHost(hostPart, repo.RegistryStr()) {
		return false
	}
	p := repo.RepositoryStr()
	return pathPart == "" || p == pathPart || strings.HasPrefix(p, pathPart+"/")
}

func matchesHost(pattern, registry string) bool {
	switch pattern {
	case "docker.io", "registry-1.docker.io":
		pattern = name.DefaultRegistry
	}
	patternParts, hostParts := strings.Split(pattern, "."), strings.Split(registry, ".")
	if len(patternParts) != len(hostParts) {
		return false
	}
	for i := range patternParts {
		if ok, err := path.Match(patternParts[i], hostParts[i]); err != nil || !ok {
			return false
		}
	}
	return true
}
