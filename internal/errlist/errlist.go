// SPDX-License-Identifier: Apache-2.0

// Package errlist is several errors on one line, as the message of a condition
// wants them, where errors.Join has a line for each. It keeps their order and
// removes no doubles.
package errlist

import (
	"fmt"
	"strings"
)

// shown is how many errors the text has; a condition's message is bounded.
const shown = 5

// List is several errors.
type List []error

// Error shows the first few and says how many there are more.
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
