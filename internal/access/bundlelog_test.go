// SPDX-License-Identifier: Apache-2.0

package access

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/host"
)

func TestBundleLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	prefix := netip.MustParsePrefix("192.168.44.0/24")
	if err := w.networks.EnsureNetwork(t.Context(), host.Network{Owner: demo, Subnet: prefix, Gateway: netip.MustParseAddr("192.168.44.1")}); err != nil {
		t.Fatal(err)
	}
	started := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	w.bundles.SetClock(func() time.Time { return started })
	if _, err := w.bundles.EnsureBundle(t.Context(), host.BundleSpec{Owner: demo, IP: netip.MustParseAddr("192.168.44.2")}); err != nil {
		t.Fatal(err)
	}
	for _, l := range []host.BundleLogLine{
		{Time: started.Add(-time.Hour), Text: []byte("earlier run")},
		{Time: started.Add(time.Second), Text: []byte("out")},
		{Time: started.Add(2 * time.Second), Text: []byte("err"), Stderr: true},
	} {
		w.bundles.Log(demo, l)
	}
	w.bundles.Decide(demo, host.Decision{Time: started.Add(3 * time.Second), Verdict: host.VerdictAllow, Host: "api.example.com", Port: 443})
	w.bundles.Decide(demo, host.Decision{Time: started.Add(4 * time.Second), Verdict: host.VerdictDeny, Host: "evil.example.com", Port: 443, Reason: "no rule allows it"})
	const deny = `{"time":"2026-01-02T03:04:04Z","decision":"deny","host":"evil.example.com","port":443,"reason":"no rule allows it"}` + "\n"
	for query, want := range map[string]string{
		"source=Bundle":                                "out\nerr\nallow api.example.com\ndeny evil.example.com\n",
		"source=Bundle&tailLines=1":                    "deny evil.example.com\n",
		"source=Bundle&previous=true":                  "earlier run\n",
		"source=Bundle&format=CRI&limitBytes=66":       "2026-01-02T03:04:01Z stdout F out\n2026-01-02T03:04:02Z stderr F err\n"[:66],
		"source=Egress":                                `{"time":"2026-01-02T03:04:03Z","decision":"allow","host":"api.example.com","port":443}` + "\n" + deny,
		"source=Egress&tailLines=1":                    deny,
		"source=Egress&sinceTime=2026-01-02T03:04:04Z": deny,
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if code, got := w.get(t, http.MethodGet, w.url("log", q)); code != http.StatusOK || got != want {
			t.Errorf("%s: got %d %q, want %q", query, code, got, want)
		}
	}
	lines := w.follow(t, "source=Egress&tailLines=1")
	if got := <-lines + "\n"; got != deny {
		t.Fatalf("follow: got %q, want %q", got, deny)
	}
	w.bundles.Decide(demo, host.Decision{Time: started.Add(5 * time.Second), Verdict: host.VerdictAllow, Host: "late.example.com", Port: 443})
	if got, want := <-lines, `{"time":"2026-01-02T03:04:05Z","decision":"allow","host":"late.example.com","port":443}`; got != want {
		t.Errorf("follow: got %q, want %q", got, want)
	}
	w.bottles.change(func(b *Bottle) { b.Finished = true })
	if got, ok := <-lines; ok {
		t.Errorf("after the end: got %q, want no more", got)
	}
	if code, got := w.get(t, http.MethodGet, w.url("log", url.Values{"source": {"Bundle"}})); code != http.StatusOK {
		t.Errorf("after the end, with a container: got %d %q, want its log", code, got)
	}
	if err := w.bundles.DeleteBundle(t.Context(), demo); err != nil { // as a Pod takes it along
		t.Fatal(err)
	}
	for _, source := range []string{"Bundle", "Egress"} {
		if code, got := w.get(t, http.MethodGet, w.url("log", url.Values{"source": {source}})); code != http.StatusGone || !strings.Contains(got, "recentDenials") {
			t.Errorf("%s, after the end, without a container: got %d %q, want 410 and where the refusals are", source, code, got)
		}
	}
}
