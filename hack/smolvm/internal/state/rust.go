// SPDX-License-Identifier: Apache-2.0

package state

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Rust gives a system error the text that Rust's standard library, and so smolvm,
// prints: "No such file or directory (os error 2)". It returns other errors
// unchanged.
func Rust(err error) error {
	var no syscall.Errno
	if !errors.As(err, &no) {
		return err
	}
	text := no.Error()
	return &rustError{fmt.Sprintf("%s%s (os error %d)", strings.ToUpper(text[:1]), text[1:], int(no)), err}
}

type rustError struct {
	text string
	err  error
}

func (e *rustError) Error() string { return e.text }
func (e *rustError) Unwrap() error { return e.err }

// passwdHome returns the user's home directory from /etc/passwd, or "" if there
// is none.
func passwdHome(uid int) string {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return ""
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if p := strings.Split(sc.Text(), ":"); len(p) >= 6 && p[2] == strconv.Itoa(uid) {
			return p[5]
		}
	}
	return ""
}
