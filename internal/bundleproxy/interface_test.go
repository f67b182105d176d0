// SPDX-License-Identifier: Apache-2.0

package bundleproxy

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// The bundle in a Pod serves only connections to the bridge's addresses. Here, lo stands for
// the bridge.
func TestServesOnlyAtItsInterface(t *testing.T) {
	for name, tt := range map[string]struct {
		link   string
		served bool
	}{
		"no interface is named":           {"", true},
		"an address of the interface":     {"lo", true},
		"the interface does not exist":    {"bb-1a2b3c4d", false},
		"the interface has other address": {otherInterface(t), false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, func(o *Options) { o.Interface = tt.link }, "api.example.com:80")
			conn, err := net.Dial("tcp", w.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(conn, "GET http://api.example.com/ HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n")
			answer, err := io.ReadAll(conn)
			if served := strings.HasPrefix(string(answer), "HTTP/1.1 200"); served != tt.served || errors.Is(err, net.ErrClosed) {
				t.Errorf("got answer %q (%v), want it served: %t", answer, err, tt.served)
			}
		})
	}
}

// otherInterface returns the name of an interface that lacks the loopback address.
func otherInterface(t *testing.T) string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Flags&net.FlagLoopback == 0 {
			return l.Name
		}
	}
	return "bb-2b3c4d5e" // none: like an interface that does not exist
}
