// SPDX-License-Identifier: Apache-2.0

package surroundings

import (
	"testing"

	"botbottle.dev/bottle-operator/internal/docker/dockertest"
)

// The tests run in their own network namespace, which stands for the node's.
func TestMain(m *testing.M) { dockertest.Main(m) }
