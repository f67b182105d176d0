// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"errors"
	"fmt"
	"strings"
)

// canonicalName returns the name in lower case and without a dot at its end. It
// changes only ASCII letters: strings.ToLower would turn the Kelvin sign into a
// k, and a resolver would then look up another name.
func canonicalName(name string) string {
	lower := func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}
	return strings.Map(lower, strings.TrimSuffix(name, "."))
}

// checkName returns nil for a canonical DNS name that may appear in a rule and in
// a guest's request.
func checkName(name string) error {
	if strings.Contains(name, "*") {
		return errors.New("has a wildcard that is not a leading \"*.\"; name the host, or *. and the domain above it")
	}
	if name == "" {
		return errors.New("names no host; name one, such as api.example.com")
	}
	if len(name) > 253 {
		return errors.New("has a host name of more than 253 characters")
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if err := checkLabel(label); err != nil {
			return err
		}
		last = label
	}
	if numeric(last) {
		return errors.New("ends in a number but is not an IP address; programs read such names as addresses in ways that differ, so write the address as 203.0.113.7")
	}
	if last == "localhost" {
		return errors.New("can never be allowed: localhost is the bundle itself")
	}
	return nil
}

func checkLabel(label string) error {
	switch {
	case label == "":
		return errors.New("has an empty part between dots; remove the dot")
	case len(label) > 63:
		return errors.New("has a part of more than 63 characters between dots")
	case label[0] == '-' || label[len(label)-1] == '-':
		return fmt.Errorf("has a part that begins or ends with a hyphen: %q", label)
	}
	for i := range len(label) {
		c := label[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return fmt.Errorf("has a character that is not allowed in a host name: %q", c)
		}
	}
	return nil
}

// numeric reports whether a resolver may read a name that ends in label as an
// IPv4 address, as inet_aton does: 127.1, 2130706433, 0x7f.1, 0177.0.0.1. No
// top-level domain is numeric.
func numeric(label string) bool {
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		return strings.Trim(hex, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}
