// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"os"
	"runtime/debug"
)

// gcPercent is how much garbage, in percent of the memory in use, the agent's heap
// may hold. Go's default of 100 suits programs that make garbage all the time. The
// agent does so while Bottles start; once they run it makes little, but the heap
// would keep its size. With 50 it collects more often while Bottles start, and
// needs a quarter less memory beside the machines.
const gcPercent = 50

// limitGarbage sets the agent's garbage collection, unless the environment does.
func limitGarbage() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
