// SPDX-License-Identifier: Apache-2.0

// Package brokerfile defines two files that a node's agent gives to a bundle: its
// Bottle's certificate authority, and the values of its Bottle's Secrets. It does no I/O. Its errors
// never contain the content of a file.
package brokerfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The names of the files in the folder that the bundle has read-only.
const (
	// CAFile holds what package bottleca makes: the certificate and the key.
	CAFile = "ca.pem"
	// SecretsFile holds what Encode returns.
	SecretsFile = "secrets.json"
)

const (
	// MaxSize is the maximum size of SecretsFile in bytes. A Bottle's values have at
	// most 4 MiB in all, and base64 adds a third.
	MaxSize = 8 << 20
	// MaxSecrets is the maximum number of values: a Bottle has at most 64 credentials
	// and 128 variables.
	MaxSecrets = 192

	maxName = 253 // bytes in the name of a Secret, and in a key
	version = 1
)

// Secret is one key of a Secret with its value.
type Secret struct {
	// Secret and Key name the value. The Secret is in the Bottle's namespace.
	Secret string `json:"secret"`
	Key    string `json:"key"`
	// Value is encoded in base64 in the file.
	Value []byte `json:"value"`
	// ResourceVersion is that of the Secret from which the value was read.
	ResourceVersion string `json:"resourceVersion"`
	// Credential: a rule adds the value to requests. Otherwise it is only a value
	// that requests must not contain.
	Credential bool `json:"credential"`
}

// Format implements fmt.Formatter, so that no verb prints the value.
func (s Secret) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "%s/%s (%d bytes)", s.Secret, s.Key, len(s.Value))
}

type file struct {
	Version int      `json:"version"`
	Secrets []Secret `json:"secrets"`
}

// Encode returns the content of SecretsFile: the Secrets by name and key, each once. If
// two entries name the same key, it is a credential if one of them is.
func Encode(secrets []Secret) ([]byte, error) {
	sorted := slices.Clone(secrets)
	slices.SortStableFunc(sorted, compare)
	f := file{Version: version, Secrets: []Secret{}}
	for _, s := range sorted {
		if last := len(f.Secrets) - 1; last >= 0 && compare(f.Secrets[last], s) == 0 {
			f.Secrets[last].Credential = f.Secrets[last].Credential || s.Credential
			continue
		}
		f.Secrets = append(f.Secrets, s)
	}
	if err := check(f); err != nil {
		return nil, fmt.Errorf("%s: %w", SecretsFile, err)
	}
	data, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("%s: cannot be encoded", SecretsFile)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%s: has %d bytes, more than the limit of %d", SecretsFile, len(data), MaxSize)
	}
	return data, nil
}

// Decode returns the Secrets in a file that Encode made. It reads at most MaxSize bytes.
func Decode(r io.Reader) ([]Secret, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", SecretsFile, err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%s: has more than the limit of %d bytes", SecretsFile, MaxSize)
	}
	var head struct {
		Version int `json:"version"`
	}
	// The decoder's errors may quote the content.
	if json.Unmarshal(data, &head) != nil {
		return nil, fmt.Errorf("%s: is not JSON of the expected form", SecretsFile)
	}
	if head.Version != version {
		return nil, fmt.Errorf("%s: has version %d, but this bundle reads version %d", SecretsFile, head.Version, version)
	}
	var f file
	if json.Unmarshal(data, &f) != nil {
		return nil, fmt.Errorf("%s: is not JSON of the expected form", SecretsFile)
	}
	if err := check(f); err != nil {
		return nil, fmt.Errorf("%s: %w", SecretsFile, err)
	}
	return f.Secrets, nil
}

func check(f file) error {
	if len(f.Secrets) > MaxSecrets {
		return fmt.Errorf("has %d values, more than the limit of %d", len(f.Secrets), MaxSecrets)
	}
	for i, s := range f.Secrets {
		if s.Secret == "" || s.Key == "" || len(s.Secret) > maxName || len(s.Key) > maxName || len(s.ResourceVersion) > maxName {
			return errors.New("an entry has a name of invalid length")
		}
		if i > 0 && compare(f.Secrets[i-1], s) >= 0 {
			return errors.New("the entries are not in order, or one appears twice")
		}
	}
	return nil
}

func compare(a, b Secret) int {
	if c := strings.Compare(a.Secret, b.Secret); c != 0 {
		return c
	}
	return strings.Compare(a.Key, b.Key)
}
