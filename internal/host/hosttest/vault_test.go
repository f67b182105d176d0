// SPDX-License-Identifier: Apache-2.0

package hosttest

import (
	"testing"

	"botbottle.dev/bottle-operator/internal/host/hostcontract"
)

func TestVaultContract(t *testing.T) {
	hostcontract.TestVault(t, func(*testing.T) hostcontract.VaultFixture {
		v := NewVault(nil)
		return hostcontract.VaultFixture{Vault: v, Reboot: func(*testing.T) { v.Reboot() }}
	})
}
