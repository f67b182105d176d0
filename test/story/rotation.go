// SPDX-License-Identifier: Apache-2.0

package story

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// progress is what test/caller says about a stream or about repeated requests.
type progress struct {
	Connections, Count, Failures int
	text                         string
}

// progress reads what the client says in a file of the guest.
func (l *Lender) progress(t testing.TB, file string) progress {
	t.Helper()
	p := progress{text: l.c.Guest(t, l.Bottle, "sh", "-c", `cat "$1" 2>/dev/null || true`, "sh", file)}
	var count string
	_, _ = fmt.Sscanf(p.text, "connections=%d %s failures=%d", &p.Connections, &count, &p.Failures)
	if _, number, ok := strings.Cut(count, "="); ok {
		_, _ = fmt.Sscan(number, &p.Count)
	}
	return p
}

// StartClients starts a client that follows a stream and one that repeats a request, and
// waits until both have got something.
func (l *Lender) StartClients(t testing.TB) {
	t.Helper()
	l.c.SendToGuest(t, l.Bottle, "test/caller", caller)
	l.c.StartInGuest(t, l.Bottle, "follow", caller+" follow 'https://opened.test/stream?lines=100000&every=100ms' /root/stream")
	l.c.StartInGuest(t, l.Bottle, "poll", caller+" poll https://opened.test/echo /root/answers")
	l.WaitClients(t, "to get something", func(stream, answers progress) bool { return stream.Count > 2 && answers.Count > 2 })
}

// WaitClients waits until the two clients have got far enough.
func (l *Lender) WaitClients(t testing.TB, what string, done func(stream, answers progress) bool) (stream, answers progress) {
	t.Helper()
	l.c.Eventually(t, "the clients in the guest "+what, func() (string, bool) {
		stream, answers = l.progress(t, "/root/stream"), l.progress(t, "/root/answers")
		return "stream: " + stream.text + "requests: " + answers.text, done(stream, answers)
	})
	return stream, answers
}

// WantRotation changes the Secret of the credential while the two clients run. Requests must
// get the new value, without a new connection and without a failure.
func (l *Lender) WantRotation(t testing.TB) {
	t.Helper()
	secret := &corev1.Secret{}
	if err := l.c.Get(t.Context(), client.ObjectKey{Namespace: l.Namespace, Name: "lent"}, secret); err != nil {
		t.Fatal(err)
	}
	before, beforeRequests := l.WaitClients(t, "to run", func(_, _ progress) bool { return true })
	old := l.credential
	l.credential = "r0tated-" + rand.Text()
	secret.Data = map[string][]byte{"value": []byte(l.credential)}
	if err := l.c.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	changed := time.Now()
	var arrived []worldEntry
	l.c.Eventually(t, "requests with the new credential", func() (string, bool) {
		arrived = l.arrivals(t, l.credential)
		return fmt.Sprintf("%d requests", len(arrived)), len(arrived) > 2
	})
	first, err := time.Parse(time.RFC3339Nano, arrived[0].Time)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the first request with the new credential arrived %s after the change", first.Sub(changed).Round(10*time.Millisecond))
	if with := l.arrivals(t, old); len(with) > 0 && with[len(with)-1].Time > arrived[0].Time {
		t.Errorf("a request with the old credential arrived at %s, after one with the new one at %s", with[len(with)-1].Time, arrived[0].Time)
	}
	after, afterRequests := l.WaitClients(t, "to go on", func(stream, answers progress) bool {
		return stream.Count > before.Count+5 && answers.Count > beforeRequests.Count+5
	})
	if after.Connections != before.Connections || after.Failures != before.Failures || afterRequests.Connections != beforeRequests.Connections || afterRequests.Failures != beforeRequests.Failures {
		t.Errorf("connections and failures: got %+v and %+v before the change, %+v and %+v after it; want the same", before, beforeRequests, after, afterRequests)
	}
	l.c.WaitFor(t, l.Bottle, "to say which version of the credential is in force", func() bool {
		e := l.Status.Egress
		return e != nil && len(e.Credentials) == 1 && e.Credentials[0].SecretName == "lent" && e.Credentials[0].Key == "value" &&
			e.Credentials[0].ResourceVersion == secret.ResourceVersion && !e.Credentials[0].Since.IsZero()
	})
}

// WantClientsBack checks that the two clients go on after a disturbance, with the same
// certificate authority and the credential. It returns how many connections the stream had
// needed before and after.
func (l *Lender) WantClientsBack(t testing.TB, what string, disturb func()) (before, after int) {
	t.Helper()
	authority := l.Authority(t)
	stream, _ := l.WaitClients(t, "to run", func(_, _ progress) bool { return true })
	before = stream.Connections
	disturb()
	arrived := len(l.arrivals(t, l.credential))
	disturbed, _ := l.WaitClients(t, "to run", func(_, _ progress) bool { return true })
	stream, _ = l.WaitClients(t, "to go on after "+what, func(stream, _ progress) bool {
		return stream.Count > disturbed.Count+2 && len(l.arrivals(t, l.credential)) > arrived+2
	})
	if got := l.Authority(t); got != authority {
		t.Errorf("certificate authority after %s: got another one, want the same", what)
	}
	return before, stream.Connections
}

// WantNewAuthorityAfterBoot stops everything of the Bottle and empties the vault, as a boot
// of the node does. The guest must trust its new authority, and have the credential.
func (l *Lender) WantNewAuthorityAfterBoot(t testing.TB) {
	t.Helper()
	node, authority, pid := NodeOf(l.Bottle), l.Authority(t), *l.Status.Machine.PID
	l.c.Run(t, "agent-stop", node)
	l.c.Exec(t, node, "docker", "kill", ID(l.Bottle))
	l.c.Exec(t, node, "sh", "-c", `kill -9 "$1" && umount "$2"`, "sh", fmt.Sprint(pid), vault)
	l.c.Run(t, "agent-start", node)
	l.c.WaitFor(t, l.Bottle, "to run again", func() bool {
		m := l.Status.Machine
		return Running(l.Bottle) && m != nil && m.PID != nil && *m.PID != pid
	})
	if got := l.Authority(t); got == authority {
		t.Error("certificate authority after a boot: got the same, want a new one")
	}
	l.c.Guest(t, l.Bottle, "rm", "-f", "/root/stream", "/root/answers")
	arrived := len(l.arrivals(t, l.credential))
	l.StartClients(t)
	if got := len(l.arrivals(t, l.credential)); got <= arrived {
		t.Errorf("requests with the credential after a boot: got %d, want more than %d", got, arrived)
	}
}

// Authority returns what the guest trusts.
func (l *Lender) Authority(t testing.TB) string {
	t.Helper()
	return l.c.ExecInGuest(t, l.Bottle, "sh", "-c", `sha256sum "$SSL_CERT_FILE"`)
}
