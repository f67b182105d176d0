// SPDX-License-Identifier: Apache-2.0

package story

import (
	"os"
	"testing"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// Main runs a package's tests and keeps the client silent: tests report failures
// themselves.
func Main(m *testing.M) {
	log.SetLogger(logr.Discard())
	os.Exit(m.Run())
}
