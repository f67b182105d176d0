// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"bytes"
	"errors"

	"botbottle.dev/bottle-operator/internal/egress"
	"botbottle.dev/bottle-operator/internal/state"
)

// lessen puts into force what limit leaves of the rules that are in force. limit must not add
// anything. A full disk does not keep the bundle's own copy from being narrowed. The caller
// holds m.lock.
func (w *walls) lessen(m *machine, folder state.Folder, limit func(now egress.Set) egress.Set) error {
	var file []byte
	if m.rules == nil {
		var err error
		if file, err = folder.Rules(); err != nil || file == nil {
			return err
		}
	}
	data, err := w.publishLess(m, folder.UID(), file, limit)
	if _, writeErr := folder.WriteRules(data); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	m.rules = nil
	return err
}

// publishLess does the part of lessen that concerns the bundle's own copy. file is the rules
// file, which counts unless m.rules does. It returns what the file must be now.
func (w *walls) publishLess(m *machine, uid string, file []byte, limit func(now egress.Set) egress.Set) ([]byte, error) {
	m.copying.Lock()
	defer m.copying.Unlock()
	now := decode(file)
	if m.rules != nil {
		now, file = encode(*m.rules)
	}
	// Somebody may have narrowed only the copy: an earlier agent that found no room for the
	// file, or narrowCopy. What is in memory also goes into a new, empty folder.
	published, copied := w.published(uid)
	if copied && !bytes.Equal(published, file) && (m.rules == nil || len(published) > 0) {
		now = now.Intersect(decode(published))
	}
	rules, data := encode(limit(now))
	m.rules = &rules
	return data, w.publish(uid, data)
}

// narrowCopy does the same as lessen with only the bundle's own copy, if it has one, and does
// not wait for the disk. Whoever calls it also calls lessen, which reports the error, if any.
func (w *walls) narrowCopy(m *machine, uid string, limit func(now egress.Set) egress.Set) {
	m.copying.Lock()
	defer m.copying.Unlock()
	published, _ := w.published(uid)
	if len(published) == 0 {
		return
	}
	if _, data := encode(limit(decode(published))); !bytes.Equal(data, published) {
		_ = w.publish(uid, data)
	}
}

// publishOpened publishes rules that may allow more than those before, unless somebody has
// narrowed the Bottle to a newer generation since. It does so even if the file has not
// changed: a bundle that reads a copy may have got a new, empty folder. The caller holds
// m.lock.
func (w *walls) publishOpened(m *machine, uid string, generation int64, rules egress.Set) error {
	m.copying.Lock()
	defer m.copying.Unlock()
	if err := w.checkGeneration(m, generation); err != nil {
		return err
	}
	data, err := egress.EncodeFile(w.limits().Apply(rules, rules)) // they may have changed, too
	if err != nil {
		return err
	}
	return w.publish(uid, data)
}

func (w *walls) publish(uid string, rules []byte) error {
	if w.Publish == nil {
		return nil
	}
	return w.Publish(uid, rules)
}

// published returns what publish gave to the bundle. copied is false if the bundle reads the
// rules file.
func (w *walls) published(uid string) (rules []byte, copied bool) {
	if w.Published == nil {
		return nil, false
	}
	return w.Published(uid)
}

// decode reads a rules file. Unreadable rules allow nothing that we know of.
func decode(data []byte) egress.Set {
	rules, err := egress.DecodeFile(bytes.NewReader(data))
	if err != nil {
		return egress.Set{}
	}
	return rules
}

// encode returns rules as a file, or those that allow nothing if they do not fit into one.
func encode(rules egress.Set) (egress.Set, []byte) {
	data, err := egress.EncodeFile(rules)
	if err != nil {
		rules = egress.Set{}
		data, _ = egress.EncodeFile(rules) // the empty set fits
	}
	return rules, data
}
