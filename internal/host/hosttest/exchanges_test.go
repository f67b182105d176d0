// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"testing"

	"botbottle.dev/bottle-operator/internal/host/hostcontract"
	"botbottle.dev/bottle-operator/internal/supervise"
)

func TestExchangesContract(t *testing.T) {
	hostcontract.TestExchanges(t, func(t *testing.T) hostcontract.ExchangesFixture {
		f := NewExchanges(nil, t.TempDir())
		return hostcontract.ExchangesFixture{
			Exchanges: f,
			Report:    func(_ *testing.T, uid, _ string, r supervise.Report) { f.Put(uid, r) },
			Reboot:    func(*testing.T) { f.Reboot() },
		}
	})
}
