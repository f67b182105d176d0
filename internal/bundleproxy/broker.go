// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"botbottle.dev/bottle-operator/internal/bottleca"
	"botbottle.dev/bottle-operator/internal/brokerfile"
	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/needle"
)

// maxMasks is how many filters are kept: more than a Bottle has rules.
const maxMasks = 128

// broker holds the Bottle's authority and the values of its Secrets, as they were last
// read and understood.
type broker struct {
	dir string // "" for none
	log *decisionLog

	leaves  atomic.Pointer[leaves] // nil if there is no authority
	secrets atomic.Pointer[secrets]

	mu                    sync.Mutex // of what follows
	caState, secretsState fileState  // when the files were last looked at
	next                  *secrets   // what apply puts into effect; nil for nothing
}

func newBroker(dir string, log *decisionLog) *broker {
	b := &broker{dir: dir, log: log}
	b.secrets.Store(newSecrets(nil))
	return b
}

// pollCA reads the authority if its file has changed. A missing file has no content. A
// file that cannot be read or understood changes nothing.
func (b *broker) pollCA() {
	if b.dir == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pollFile(brokerfile.CAFile, &b.caState, b.readCA)
}

// pollSecrets is like pollCA for the values of Secrets, which apply puts into effect.
func (b *broker) pollSecrets() {
	if b.dir == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pollFile(brokerfile.SecretsFile, &b.secretsState, b.readSecrets)
}

// apply puts into effect what pollSecrets has read.
func (b *broker) apply() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next != nil {
		b.secrets.Store(b.next)
		b.next = nil
	}
}

// pollFile calls read if the file has changed; with "" if there is none.
func (b *broker) pollFile(name string, last *fileState, read func(path string) error) {
	path := filepath.Join(b.dir, name)
	info, err := os.Stat(path)
	state := stateOf(info, err)
	if state == *last {
		return
	}
	*last = state
	if errors.Is(err, fs.ErrNotExist) {
		path, err = "", nil
	}
	if err == nil {
		err = read(path)
	}
	if err != nil {
		b.log.event(name, "kept what there was: the file cannot be read or understood")
	}
	if errors.As(err, new(*fs.PathError)) {
		*last = stateOf(nil, err) // the next poll reads the file again: this one may have had no descriptor left
	}
}

func (b *broker) readCA(path string) error {
	if path == "" {
		b.leaves.Store(nil)
		b.log.event(brokerfile.CAFile, "there is no authority: no connection can be opened")
		return nil
	}
	data, err := readBounded(path, bottleca.MaxSize)
	if err != nil {
		return err
	}
	ca, err := bottleca.Parse(data)
	if err != nil {
		return err
	}
	l, err := newLeaves(ca)
	if err != nil {
		return err
	}
	b.leaves.Store(l)
	b.log.event(brokerfile.CAFile, "read the authority")
	return nil
}

func (b *broker) readSecrets(path string) error {
	if path == "" {
		b.next = newSecrets(nil)
		b.log.event(brokerfile.SecretsFile, "there are no values of Secrets")
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	list, err := brokerfile.Decode(f)
	if err != nil {
		return err
	}
	b.next = newSecrets(list)
	b.log.event(brokerfile.SecretsFile, "read the values of Secrets")
	return nil
}

// secrets are the values of one file. They are immutable, except for what is computed
// from them when it is needed.
type secrets struct {
	list  []brokerfile.Secret
	known func() *needle.Set // all of them

	mu    sync.Mutex
	masks map[egress.Credential]*needle.Set
}

func newSecrets(list []brokerfile.Secret) *secrets {
	s := &secrets{list: list, masks: map[egress.Credential]*needle.Set{}}
	s.known = sync.OnceValue(func() *needle.Set {
		all := make([]needle.Secret, 0, len(list))
		for _, one := range list {
			all = append(all, needle.Secret{Name: one.Secret, Key: one.Key, Value: one.Value, Unknown: one.Credential})
		}
		return needle.Compile(all)
	})
	return s
}

// headerValue is what a credential is on the wire.
type headerValue struct {
	name, value string
	mask        *needle.Set // finds the value in a response
	secret      string      // the value itself, in lower case
}

// credential returns what a credential adds to a request. It reports false if its Secret
// is not there or its value cannot be in a header.
func (s *secrets) credential(c egress.Credential) (headerValue, bool) {
	value, ok := s.value(c)
	if !ok {
		return headerValue{}, false
	}
	h := headerValue{name: c.Header, value: c.Prefix + value, secret: strings.ToLower(value)}
	if c.BasicUser != "" {
		h.value = "Basic " + basic(c, value)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.mask, ok = s.masks[c]; !ok {
		find := []needle.Secret{{Name: c.Secret, Key: c.Key, Value: []byte(value)}}
		if c.BasicUser != "" {
			find = append(find, needle.Secret{Name: c.Secret, Key: c.Key, Value: []byte(basic(c, value))})
		}
		h.mask = needle.Compile(find)
		if len(s.masks) >= maxMasks {
			clear(s.masks) // of rules that are gone
		}
		s.masks[c] = h.mask
	}
	return h, true
}

func basic(c egress.Credential, value string) string {
	return base64.StdEncoding.EncodeToString([]byte(c.BasicUser + ":" + value))
}

// value returns a credential's value without the white space around it, which editors
// and shells add.
func (s *secrets) value(c egress.Credential) (string, bool) {
	for _, one := range s.list {
		if one.Secret != c.Secret || one.Key != c.Key || !one.Credential {
			continue
		}
		value := strings.TrimSpace(string(one.Value))
		bad := strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
		return value, value != "" && !bad
	}
	return "", false
}

// inName returns the known secret that the name of a header contains, whatever its case.
// Short values may be there by chance.
func (s *secrets) inName(name string, passed []string) *needle.Hit {
	name = strings.ToLower(name)
	for _, one := range s.list {
		value := strings.TrimSpace(string(one.Value))
		if len(value) < needle.ShortLength || len(value) > len(name) || slices.Contains(passed, one.Secret) {
			continue
		}
		if strings.Contains(name, strings.ToLower(value)) {
			return &needle.Hit{Name: one.Secret, Key: one.Key}
		}
	}
	return nil
}
