// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/host/hostcontract"
)

func TestContract(t *testing.T) {
	hostcontract.TestImages(t, func(t *testing.T) hostcontract.ImagesFixture {
		w := newWorld(t)
		pushed := 0
		repo := func(reference string) string { return strings.TrimPrefix(reference, w.reg.host()+"/") }
		return hostcontract.ImagesFixture{
			Images: w.Store, Repository: w.reg.host() + "/demo",
			Push: func(t *testing.T, reference string) string {
				pushed++
				return w.reg.push(t, repo(reference), newImage(t, "amd64", fmt.Sprint(pushed)))
			},
			Private: func(_ *testing.T, repository string) []byte {
				w.reg.setPrivate(repo(repository), "alice:word")
				return secretFor(w.reg.host(), "alice:word").Content
			},
			Hold: func(_ *testing.T, repository string) func() {
				held := make(chan struct{})
				w.reg.setFault(func(http.ResponseWriter, *http.Request) bool {
					<-held
					return false
				})
				return func() { close(held) }
			},
			Down: func(*testing.T) {
				w.reg.setFault(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
			},
			Up:       func(*testing.T) { w.reg.setFault(nil) },
			PutLocal: func(t *testing.T, name string) { w.put(name, saved(t, newImage(t, "amd64", "local"))) },
			PushArtifact: func(t *testing.T, reference string) string {
				return w.reg.pushArtifact(t, repo(reference), []byte("packed at the registry"))
			},
			PutArtifact: func(t *testing.T, reference string) string {
				name := strings.TrimPrefix(reference, host.LocalPrefix)
				w.put(name, []byte("packed here"))
				return sumOf(t, filepath.Join(w.o.LocalDir, name))
			},
			Step: func(d time.Duration) { w.clock.Step(d) },
		}
	})
}
