// SPDX-License-Identifier: Apache-2.0

package story

import (
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// WantSecretContained checks that the value of b's variable TOKEN, which comes from
// a Secret, is nowhere but in its own file, and that only root can read that file.
func (c *Cluster) WantSecretContained(t testing.TB, b *v1alpha1.Bottle, planted string) {
	t.Helper()
	c.WantNotExposed(t, b, planted)
	path := "/var/lib/bottle/bottles/" + string(b.UID) + "/secrets/TOKEN"
	if got := strings.TrimSpace(c.Exec(t, NodeOf(b), "stat", "-c", "%a %u", path)); got != "600 0" {
		t.Errorf("file of the Secret's value: got mode and owner %s, want 600 0", got)
	}
}

// WantNotExposed checks that a value is in no database, command line, log, Event,
// status, metric or packet filter rule. Each of these places must have some
// content, so that the check means something.
func (c *Cluster) WantNotExposed(t testing.TB, b *v1alpha1.Bottle, planted string) {
	t.Helper()
	node := NodeOf(b)
	events, err := c.Kubectl(nil, "-n", b.Namespace, "get", "events", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	bottle, err := c.Kubectl(nil, "-n", b.Namespace, "get", "bottle", b.Name, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	for place, text := range map[string]string{
		"events":            events,
		"bottle":            bottle,
		"smolvm's database": c.Exec(t, node, "sh", "-c", "cat /var/lib/bottle/smolvm/.local/share/smolvm/server/*"),
		"command lines":     c.Exec(t, node, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"),
		"agent's log":       c.AgentLog(t, node),
		"agent's metrics":   c.Exec(t, node, "busybox", "wget", "-qO-", "http://127.0.0.1:8080/metrics"),
		"packet filter":     c.Exec(t, node, "nft", "list", "ruleset"),
		"Smolfile":          c.Exec(t, node, "cat", b.Status.Smolfile.Path),
		"docker's view":     c.Exec(t, node, "docker", "inspect", ID(b)),
		"bundle's log":      c.Exec(t, node, "sh", "-c", "docker logs \"$1\" 2>&1; echo .", "sh", ID(b)),
	} {
		if text == "" {
			t.Errorf("%s: got no content to check", place)
		}
		if strings.Contains(text, planted) {
			t.Errorf("%s: contains the Secret's value", place)
		}
	}
}

// WantSecretGone checks that no file below the agent's directory contains the value
// after its Bottle was deleted. It first checks that the search works.
func (c *Cluster) WantSecretGone(t testing.TB, node, planted string) {
	t.Helper()
	const grep = `grep -rlF --binary-files=text -- "$1" /var/lib/bottle/bottles /var/lib/bottle/smolvm/.local || [ $? = 1 ]`
	c.Exec(t, node, "sh", "-c", "echo in-a-file-8c1 >/var/lib/bottle/bottles/.searched")
	defer c.Exec(t, node, "rm", "/var/lib/bottle/bottles/.searched")
	if out := c.Exec(t, node, "sh", "-c", grep, "sh", "in-a-file-8c1"); !strings.Contains(out, ".searched") {
		t.Errorf("search: got %q, want the file that contains the text", out)
	}
	if out := c.Exec(t, node, "sh", "-c", grep, "sh", planted); strings.TrimSpace(out) != "" {
		t.Errorf("files with the Secret's value: got %s, want none", out)
	}
}
