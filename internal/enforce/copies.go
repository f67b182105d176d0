// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"bytes"

	"botbottle.dev/bottle-operator/internal/egress"
)

// copies changes the copies of the rules that bundles in Pods read. They are in memory, so
// none of its methods waits for the disk.
type copies struct {
	Options
	watched *registry
}

// less does the part of walls.lessen that concerns the bundle's own copy. file is the rules
// file, which counts unless m.rules does. It returns what the file must be now. The caller
// holds m.lock.
func (c *copies) less(m *machine, uid string, file []byte, limit func(now egress.Set) egress.Set) ([]byte, error) {
	m.copying.Lock()
	defer m.copying.Unlock()
	now := decode(file)
	if m.rules != nil {
		now, file = encode(*m.rules)
	}
	// Somebody may have narrowed only the copy: an earlier agent that found no room for the
	// file, or narrow. What is in memory also goes into a new, empty folder.
	published, copied := c.read(uid)
	if copied && !bytes.Equal(published, file) && (m.rules == nil || len(published) > 0) {
		now = now.Intersect(decode(published))
	}
	rules, data := encode(limit(now))
	m.rules = &rules
	return data, c.write(uid, data)
}

// narrow does the same as walls.lessen with only the bundle's own copy, if it has one.
// Whoever calls it also calls lessen, which reports the error, if any.
func (c *copies) narrow(m *machine, uid string, limit func(now egress.Set) egress.Set) {
	m.copying.Lock()
	defer m.copying.Unlock()
	published, _ := c.read(uid)
	if len(published) == 0 {
		return
	}
	if _, data := encode(limit(decode(published))); !bytes.Equal(data, published) {
		_ = c.write(uid, data)
	}
}

// open publishes rules that may allow more than those before, unless somebody has narrowed the
// Bottle to a newer generation since. It does so even if the file has not changed: a bundle
// that reads a copy may have got a new, empty folder. The caller holds m.lock.
func (c *copies) open(m *machine, uid string, generation int64, rules egress.Set) error {
	m.copying.Lock()
	defer m.copying.Unlock()
	if err := c.watched.checkGeneration(m, generation); err != nil {
		return err
	}
	data, err := egress.EncodeFile(c.limits().Apply(rules, rules)) // they may have changed, too
	if err != nil {
		return err
	}
	return c.write(uid, data)
}

func (c *copies) write(uid string, rules []byte) error {
	if c.Publish == nil {
		return nil
	}
	return c.Publish(uid, rules)
}

// read returns what write gave to the bundle. copied is false if the bundle reads the rules
// file.
func (c *copies) read(uid string) (rules []byte, copied bool) {
	if c.Published == nil {
		return nil, false
	}
	return c.Published(uid)
}
