// SPDX-License-Identifier: Apache-2.0

// Package errlist combines several errors into one line, for the message of a
// condition. (errors.Join uses one line for each error.) It keeps the order and
// does not remove duplicates.
package errlist

import (
	"fmt"
	"strings"
)

// shown is how many errors the text includes: a condition's message has a maximum
// length.
const shown = 5

// List is a list of errors.
type List []error

// Error returns the texts of the first few errors and the number of the others.
func (l List) Error() string {
	var texts []string
	for _, err := range l[:min(len(l), shown)] {
		texts = append(texts, err.Error())
	}
	if more := len(l) - shown; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns all of them.
func (l List) Unwrap() []error { return l }
