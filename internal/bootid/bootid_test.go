// SPDX-License-Identifier: Apache-2.0

package bootid

import "testing"

func TestRead(t *testing.T) {
	first, err := Read()
	second, _ := Read()
	if err != nil || first != second || len(first) != 36 {
		t.Errorf("got %q and %q, %v, want the same UUID twice", first, second, err)
	}
}
