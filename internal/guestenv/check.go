// SPDX-License-Identifier: Apache-2.0

package guestenv

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxEntry is the maximum length of NAME=VALUE in bytes: Linux's MAX_ARG_STRLEN
// is 32 pages of 4 KiB and includes the final NUL. No program can be executed
// with a longer entry, so the guest would not start.
const MaxEntry = 32*4096 - 1

// Reasons why a variable cannot be passed. Each is wrapped in a *VarError.
var (
	// ErrName means that the name is not valid. If a name is empty or contains
	// "=", smolvm drops the entry or takes it from its own environment, depending
	// on the version.
	ErrName = errors.New("the name must consist of letters, digits and underscores, and must not start with a digit")
	// ErrDuplicate means that the user gave the name more than once.
	ErrDuplicate = errors.New("given more than once")
	// ErrTooLong means that NAME=VALUE is longer than MaxEntry.
	ErrTooLong = fmt.Errorf("longer than %d bytes including its name, the most that Linux passes to a program; mount or fetch it as a file instead", MaxEntry)
	// ErrNUL means that the value contains a NUL byte.
	ErrNUL = errors.New("contains a NUL byte, which an environment cannot carry; encode it, for example as base64")
	// ErrNotUTF8 means that a literal is not UTF-8. Literals are passed in a TOML
	// document, which must be UTF-8.
	ErrNotUTF8 = errors.New("is not valid UTF-8; take it from a Secret or encode it, for example as base64")
)

// VarError names a variable and the reason why it cannot be passed. It never
// contains the value.
type VarError struct {
	Name string
	Err  error
}

// Error names the variable and the reason. It shows a name only up to the first
// "=": the rest may be a value in the wrong place.
func (e *VarError) Error() string {
	name, _, cut := strings.Cut(e.Name, "=")
	if len(name) > 256 {
		name, cut = strings.ToValidUTF8(name[:256], ""), true
	}
	if cut {
		name += "…"
	}
	return fmt.Sprintf("env %q: %v", name, e.Err)
}

// Unwrap returns the reason.
func (e *VarError) Unwrap() error { return e.Err }

// Check returns nil if v can be passed to a guest, otherwise a *VarError.
func Check(v Var) error {
	switch {
	case !ValidName(v.Name):
		return &VarError{v.Name, ErrName}
	case strings.IndexByte(v.Value, 0) >= 0:
		return &VarError{v.Name, ErrNUL}
	case len(v.Name)+1+len(v.Value) > MaxEntry:
		return &VarError{v.Name, ErrTooLong}
	case !v.Secret && !utf8.ValidString(v.Value):
		return &VarError{v.Name, ErrNotUTF8}
	}
	return nil
}

// ValidName reports whether name matches ^[A-Za-z_][A-Za-z0-9_]*$.
func ValidName(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
