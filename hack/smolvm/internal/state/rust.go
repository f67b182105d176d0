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

// Rust rewords a system error as smolvm's standard library prints it:
// "No such file or directory (os error 2)". Other errors pass unchanged.
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

// passwdHome is the home directory of the user in /etc/passwd, "" if none.
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
