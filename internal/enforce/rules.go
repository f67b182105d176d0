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
	data, err := w.copies.less(m, folder.UID(), file, limit)
	if _, writeErr := folder.WriteRules(data); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	m.rules = nil
	return err
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
