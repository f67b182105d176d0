// SPDX-License-Identifier: Apache-2.0

package real

import (
	"testing"
	"time"

	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/require"
	"botbottle.dev/bottle-operator/test/story"
)

// TestLongCredentialOnARealMicroVM: a guest uses a credential in 200 requests of every
// kind, and it is nowhere in the guest's memory and disks.
func TestLongCredentialOnARealMicroVM(t *testing.T) {
	require.Long(t)
	c := story.Connect(t, 12*time.Minute)
	l := c.ApplyLender(t, builders.MakeBottle("lender").Namespace(c.Namespace(t)))
	l.MakeRequests(t, 200)
	l.WantCredentialNowhere(t)
	c.DeleteAndWait(t, l.Bottle)
	l.WantCredentialGone(t, node)
}
