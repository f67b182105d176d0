// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"testing"

	"botbottle.dev/bottle-operator/test/api/apienv"
)

func TestMain(m *testing.M) { apienv.Main(m) }
