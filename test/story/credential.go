// SPDX-License-Identifier: Apache-2.0

package story

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/builders"
)

const (
	// stateDir is the agent's folder on a node, and vault is the part of it that is in
	// memory.
	stateDir = "/var/lib/bottle"
	vault    = stateDir + "/vault"
	// caller is the path of test/caller in a guest, and tokenVariable is where it looks for
	// its credential.
	caller        = "/root/caller"
	tokenVariable = "OPENED_TOKEN"
)

// Lender is a Bottle whose guest uses a credential that it does not have.
type Lender struct {
	c *Cluster
	*v1alpha1.Bottle
	// credential is lent to the guest. planted is a secret that the guest does have, and
	// that searches must find.
	credential, planted string
}

// newLender completes a Bottle with a rule for opened.test, and creates its Secrets.
func (c *Cluster) newLender(t testing.TB, b *builders.Bottle) *Lender {
	t.Helper()
	l := &Lender{c: c, credential: "cr3dential-" + rand.Text(), planted: "pl4nted-" + rand.Text()}
	env := tokenVariable
	l.Bottle = b.EnvFromSecret("PLANTED", "planted", "value").Rules(v1alpha1.HTTPRule{
		Host:       "opened.test",
		Credential: &v1alpha1.Credential{SecretKeyRef: v1alpha1.SecretKeySelector{Name: "lent", Key: "value"}, Env: &env},
	}).Obj()
	for name, value := range map[string]string{"lent": l.credential, "planted": l.planted} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: b.ObjectMeta.Namespace}, StringData: map[string]string{"value": value}}
		if err := c.Create(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// ApplyLender applies such a Bottle and waits until it runs.
func (c *Cluster) ApplyLender(t testing.TB, b *builders.Bottle) *Lender {
	t.Helper()
	l := c.newLender(t, b)
	c.Apply(t, l.Bottle)
	c.WaitRunning(t, l.Bottle)
	return l
}

// arrivals returns the requests with a credential that arrived at opened.test.
func (l *Lender) arrivals(t testing.TB, credential string) []worldEntry {
	t.Helper()
	var with []worldEntry
	for _, e := range l.c.world(t, NodeOf(l.Bottle)) {
		if strings.Contains(e.Data, `\r\nAuthorization: Bearer `+credential+`\r\n`) {
			with = append(with, e)
		}
	}
	return with
}

// worldEntry is a line in the log of the simulated outside world.
type worldEntry struct{ Time, Kind, Data string }

func (c *Cluster) world(t testing.TB, node string) []worldEntry {
	t.Helper()
	out, err := exec.Command(filepath.Join(c.Dir, "world-log"), node).Output()
	if err != nil {
		t.Fatalf("world-log %s: %v", node, err)
	}
	var all []worldEntry
	for line := range strings.Lines(string(out)) {
		var e worldEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("world-log: %v in %q", err, line)
		}
		all = append(all, e)
	}
	return all
}

// MakeRequests makes requests of every kind from the guest. The client keeps running, with
// all that it received in its memory, and in a file of the guest.
func (l *Lender) MakeRequests(t testing.TB, count int) {
	t.Helper()
	l.c.SendToGuest(t, l.Bottle, "test/caller", caller)
	log := l.c.StartInGuest(t, l.Bottle, "many", fmt.Sprintf("%s many https://opened.test %d /root/received", caller, count))
	l.c.Eventually(t, fmt.Sprintf("%d requests", count), func() (string, bool) {
		said := l.c.Guest(t, l.Bottle, "cat", log)
		if strings.Contains(said, "caller:") {
			t.Fatalf("requests with a credential: %s", said)
		}
		return said, strings.HasPrefix(said, "done")
	})
	if got := len(l.arrivals(t, l.credential)); got < count {
		t.Errorf("requests that arrived with the credential: got %d, want %d", got, count)
	}
}

// WantCredentialNowhere searches for the credential wherever it must not be, after the guest
// used it. The same searches must find the planted secret.
func (l *Lender) WantCredentialNowhere(t testing.TB) {
	t.Helper()
	c, node := l.c, NodeOf(l.Bottle)
	if got := c.ExecInGuest(t, l.Bottle, "sh", "-c", `echo "$`+tokenVariable+`"`); strings.TrimSpace(got) == "" || strings.Contains(got, l.credential) {
		t.Errorf("%s in the guest: got %q, want a placeholder", tokenVariable, got)
	}
	l.wantNotReceived(t)
	search := "/run/search-" + string(l.UID)
	c.Send(t, node, c.Program(t, "test/search"), search)
	defer c.Exec(t, node, "rm", search)
	in := func(value string, places ...string) string {
		return c.ExecInput(t, node, []byte(value), append([]string{search}, places...)...)
	}
	var machine []string
	for _, pid := range l.processes(t) {
		machine = append(machine, "mem="+pid, "env="+pid)
	}
	environments := strings.Fields(c.Exec(t, node, "sh", "-c", "cd /proc && for p in [0-9]*; do echo env=$p; done"))
	// control is a text that the same search must find.
	for what, searched := range map[string]struct {
		control string
		places  []string
	}{
		"the machine's memory and environment": {l.planted, machine},
		"the environments on the node":         {"/usr/local/sbin:", environments},
		"the node's disks":                     {l.planted, []string{"tree=" + stateDir, "not=" + vault, "tree=/var/lib/docker", "tree=/run/docker-exec", "not=/run/docker-exec/netns"}},
	} {
		if got := in(searched.control, searched.places...); !strings.Contains(got, "hit: ") {
			t.Errorf("search of %s for what is there: got %q, want a hit", what, got)
		}
		got := in(l.credential, searched.places...)
		t.Logf("%s: %s", what, got[strings.LastIndex(got, "searched"):])
		if strings.Contains(got, "hit: ") {
			t.Errorf("the credential is in %s:\n%s", what, got)
		}
	}
	if got := in(l.credential, "tree="+vault); !strings.Contains(got, "hit: ") {
		t.Errorf("search of the vault: got %q, want the credential, because otherwise the search proves nothing", got)
	}
	if got := strings.TrimSpace(c.Exec(t, node, "stat", "-f", "-c", "%T", vault)); got != "tmpfs" && got != "ramfs" {
		t.Errorf("file system of %s: got %s, want one in memory", vault, got)
	}
	const coreLimit = `awk '/^Max core file size/ {print $5, $6}' "/proc/$(docker inspect -f '{{.State.Pid}}' "$1")/limits"`
	if got := strings.TrimSpace(c.Exec(t, node, "sh", "-c", coreLimit, "sh", ID(l.Bottle))); got != "0 0" {
		t.Errorf("limits of the bundle's core dumps: got %s, want 0 0", got)
	}
	c.WantNotExposed(t, l.Bottle, l.credential)
	l.wantNotInLogs(t, in)
	l.wantNotInAPI(t)
}

// wantNotReceived searches all that the guest received.
func (l *Lender) wantNotReceived(t testing.TB) {
	t.Helper()
	dir := t.TempDir()
	received := l.c.Guest(t, l.Bottle, "cat", "/root/received")
	if err := os.WriteFile(filepath.Join(dir, "received"), []byte(received), 0o600); err != nil {
		t.Fatal(err)
	}
	got := l.c.searchHere(t, l.credential, "tree="+dir)
	if len(received) < 10_000 || strings.Contains(got, "hit: ") {
		t.Errorf("%d bytes that the guest received: got %s, want no hit", len(received), got)
	}
	// The host sent back what it received, with asterisks in place of the credential.
	if want := "Authorization: Bearer " + strings.Repeat("*", len(l.credential)); !strings.Contains(received, want) {
		t.Errorf("what the guest received: got no %q, although the host sent its requests back", want)
	}
}

// searchHere searches on this machine.
func (c *Cluster) searchHere(t testing.TB, value string, places ...string) string {
	t.Helper()
	cmd := exec.Command(c.Program(t, "test/search"), places...)
	cmd.Stdin = strings.NewReader(value)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("search %v: %v: %s", places, err, out.String())
	}
	return out.String()
}

// processes returns the processes of the machine: its VMM, and for a stand-in also the
// guest's.
func (l *Lender) processes(t testing.TB) []string {
	t.Helper()
	if l.Status.Machine == nil || l.Status.Machine.PID == nil {
		t.Fatalf("machine of %s: got %+v, want its pid", l.Name, l.Status.Machine)
	}
	const list = `find "$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)$(sed -n 's/^0:://p' "/proc/$1/cgroup")" -name cgroup.procs -exec cat {} +`
	pids := strings.Fields(l.c.Exec(t, NodeOf(l.Bottle), "sh", "-c", list, "sh", fmt.Sprint(*l.Status.Machine.PID)))
	if len(pids) == 0 {
		t.Fatal("processes of the machine: got none")
	}
	return pids
}

// wantNotInLogs searches the logs of the node and of the control plane.
func (l *Lender) wantNotInLogs(t testing.TB, in func(value string, places ...string) string) {
	t.Helper()
	logs := filepath.Join(l.c.Dir, "logs")
	places := []string{"tree=" + logs, "not=" + filepath.Join(logs, "world.jsonl")} // the world received the credential
	// Logs name the Bottle, so that the search finds something.
	if got := l.c.searchHere(t, string(l.UID), places...); !strings.Contains(got, "hit: ") {
		t.Errorf("search of the logs for the Bottle's UID: got %s, want a hit", got)
	}
	if got := l.c.searchHere(t, l.credential, places...); strings.Contains(got, "hit: ") {
		t.Errorf("the credential is in a log:\n%s", got)
	}
	if l.c.Virtual(t) {
		if got := in(l.credential, "tree=/var/log"); strings.Contains(got, "hit: ") {
			t.Errorf("the credential is in a log of the node:\n%s", got)
		}
	}
}

// wantNotInAPI searches all objects of the API server but Secrets.
func (l *Lender) wantNotInAPI(t testing.TB) {
	t.Helper()
	kinds, err := l.c.Kubectl(nil, "api-resources", "--verbs=list", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range strings.Fields(kinds) {
		// An agent reads the values that its Bottles need as a BottleEnvironment, which is a
		// view of Secrets and is stored nowhere.
		if name != "secrets" && !strings.HasPrefix(name, "bottleenvironments.") {
			names = append(names, name)
		}
	}
	dir := t.TempDir()
	objects, err := l.c.Kubectl(nil, "get", strings.Join(names, ","), "-A", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "objects"), []byte(objects), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := l.c.searchHere(t, string(l.UID), "tree="+dir); !strings.Contains(got, "hit: ") {
		t.Errorf("search of the API's objects for the Bottle's UID: got %s, want a hit", got)
	}
	if got := l.c.searchHere(t, l.credential, "tree="+dir); strings.Contains(got, "hit: ") {
		t.Errorf("the credential is in an object of the API:\n%s", got)
	}
}

// WantCredentialGone checks that the credential is nowhere on the node after the Bottle was
// deleted.
func (l *Lender) WantCredentialGone(t testing.TB, node string) {
	t.Helper()
	l.c.Send(t, node, l.c.Program(t, "test/search"), "/run/search-gone")
	defer l.c.Exec(t, node, "rm", "/run/search-gone")
	got := l.c.ExecInput(t, node, []byte(l.credential), "/run/search-gone", "tree="+stateDir, "tree=/var/lib/docker")
	if strings.Contains(got, "hit: ") {
		t.Errorf("the credential of a deleted Bottle is on the node:\n%s", got)
	}
}
