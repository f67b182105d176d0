// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import "botbottle.dev/bottle-operator/internal/state"

// OnWrite makes write stand for state.Folder.WritePod.
func (p *Places) OnWrite(write func(state.Folder, state.Pod) error) { p.write = write }
