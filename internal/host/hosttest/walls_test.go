// SPDX-License-Identifier: Apache-2.0

package hosttest_test

import (
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
	"botbottle.dev/bottle-operator/internal/host/hosttest"
)

func TestWallsContract(t *testing.T) {
	hostcontract.TestWalls(t, func(t *testing.T) hostcontract.WallsFixture {
		w := hosttest.NewWalls(nil)
		return hostcontract.WallsFixture{
			Walls:        w,
			Bundle:       func(_ *testing.T, spec host.WallSpec) { w.AddBridge(spec.Owner) },
			RemoveBridge: func(_ *testing.T, spec host.WallSpec) { w.RemoveBridge(spec.Owner) },
			PutForeign: func(_ *testing.T, owner host.Owner, kind string) func() bool {
				w.PutForeign(owner, kind)
				return func() bool { return true }
			},
			Open: func(_ *testing.T, spec host.WallSpec) {
				w.Break(spec.Owner, host.WallFault{What: "the filter is missing", Open: true})
			},
			Connect: func(_ *testing.T, spec host.WallSpec, port int32) { w.CountAccepted(spec.Owner, port, 3) },
			Knock:   func(_ *testing.T, spec host.WallSpec, d host.Drop) { w.AddDrop(spec.Owner, d) },
		}
	})
}
