// SPDX-License-Identifier: Apache-2.0

package guestenv

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxEntry is the most bytes that NAME=VALUE may have: Linux's MAX_ARG_STRLEN,
// 32 pages of 4 KiB, counts the NUL at its end. No program can be executed
// with a longer one, so the guest would not start.
const MaxEntry = 32*4096 - 1

// What can be wrong with a variable; each comes inside a *VarError.
var (
	// ErrName: smolvm drops an entry whose name is empty or holds "=", or
	// takes it from its own environment, by version.
	ErrName = errors.New("not a name of letters, digits and underscores that starts with no digit")
	// ErrDuplicate: the user gave the name twice.
	ErrDuplicate = errors.New("given more than once")
	// ErrTooLong: name and value together are above MaxEntry.
	ErrTooLong = fmt.Errorf("longer than %d bytes with its name, the most that Linux passes to a program; mount or fetch it as a file instead", MaxEntry)
	// ErrNUL: an environment cannot carry a NUL byte.
	ErrNUL = errors.New("holds a NUL byte, which no environment can carry; encode it, for instance as base64")
	// ErrNotUTF8: a literal goes through a TOML document, which is UTF-8.
	ErrNotUTF8 = errors.New("is not valid UTF-8; take it from a Secret or encode it, for instance as base64")
)

// VarError says what is wrong with which variable, and never what is in it.
type VarError struct {
	Name string
	Err  error
}

// Error names the variable. Of a name that is none it shows only what stands
// before the first "=": the rest may be a value in the wrong place.
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

// Unwrap returns what is wrong.
func (e *VarError) Unwrap() error { return e.Err }

// Check is nil when v can be passed to a guest, else a *VarError.
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

// ValidName says whether name matches ^[A-Za-z_][A-Za-z0-9_]*$.
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
