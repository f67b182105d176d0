// SPDX-License-Identifier: Apache-2.0

package guard

// Settle waits until the machines of all leaks so far were seen to.
func (g *Guard) Settle() { g.behind.Wait() }
