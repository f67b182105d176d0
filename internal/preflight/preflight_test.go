// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"botbottle.dev/bottle-operator/internal/boottrial"
	"botbottle.dev/bottle-operator/internal/host"
)

// want checks a result. message is part of its message.
func want(t *testing.T, c Check, outcome Outcome, message string) {
	t.Helper()
	got := Run(t.Context(), []Check{c})[0]
	if got.Outcome != outcome || !strings.Contains(got.Message, message) || message == "" && got.Message != "" {
		t.Errorf("%s: got %s %q, want %s with %q", got.Name, got.Outcome, got.Message, outcome, message)
	}
	if got.Outcome == Failure && !strings.Contains(got.Message, ": ") {
		t.Errorf("%s: got %q, want what to do about it after a colon", got.Name, got.Message)
	}
}

func TestFilter(t *testing.T) {
	want(t, Filter(func() error { return nil }), OK, "")
	want(t, Filter(func() error { return errors.New("operation not supported") }), Failure, "wall (operation not supported): load the modules nf_tables and veth")
}

func TestDisk(t *testing.T) {
	const gib = 1 << 30 / 4096
	large := unix.Statfs_t{Type: unix.EXT4_SUPER_MAGIC, Bsize: 4096, Bavail: 100 * gib, Files: 1e6, Ffree: 1e6}
	tests := map[string]struct {
		change  func(*unix.Statfs_t)
		outcome Outcome
		message string
	}{
		"large":          {func(*unix.Statfs_t) {}, OK, "100.0 GiB free"},
		"without inodes": {func(s *unix.Statfs_t) { s.Files, s.Ffree = 0, 0 }, OK, "100.0 GiB free"}, // such as Btrfs
		"tmpfs":          {func(s *unix.Statfs_t) { s.Type = unix.TMPFS_MAGIC }, Failure, "tmpfs, which loses the machines' disks at a reboot: mount a local disk"},
		"NFS":            {func(s *unix.Statfs_t) { s.Type = unix.NFS_SUPER_MAGIC }, Failure, "NFS"},
		"no inodes":      {func(s *unix.Statfs_t) { s.Ffree = 9 }, Failure, "9 free inodes: remove files"},
		"full":           {func(s *unix.Statfs_t) { s.Bavail = gib / 2 }, Failure, "0.5 GiB free, which is not more than the reserve (--image-reserve-bytes): free some"},
		"nearly full":    {func(s *unix.Statfs_t) { s.Bavail = 2 * gib }, Warning, "2.0 GiB free, which is enough for few Bottles: free"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			st := large
			tt.change(&st)
			want(t, Disk("/state", 512<<20, func(_ string, out *unix.Statfs_t) error { *out = st; return nil }), tt.outcome, tt.message)
		})
	}
	want(t, Disk("/state", 0, func(string, *unix.Statfs_t) error { return unix.EIO }), Failure, "cannot be inspected (input/output error): repair")
	// A folder that does not exist yet will be on the file system of its parent.
	var asked []string
	want(t, Disk("/not/yet", 0, func(path string, out *unix.Statfs_t) error {
		asked = append(asked, path)
		if path != "/" {
			return unix.ENOENT
		}
		*out = large
		return nil
	}), OK, "free")
	if diff := cmp.Diff([]string{"/not/yet", "/not", "/"}, asked); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
}

func TestNetwork(t *testing.T) {
	docker, pods := func(context.Context) bool { return true }, func(context.Context) bool { return false }
	good := map[string]string{"net/ipv4/ip_forward": "1", "user/max_net_namespaces": "7000", "net/ipv6/conf/all/disable_ipv6": "0"}
	tests := map[string]struct {
		name, value string
		usesDocker  func(context.Context) bool
		outcome     Outcome
		message     string
	}{
		"in order":              {"net/ipv4/ip_forward", "1", docker, OK, ""},
		"in order, Pods":        {"net/ipv4/ip_forward", "1", pods, OK, ""},
		"no forwarding":         {"net/ipv4/ip_forward", "0", docker, Failure, "does not forward IPv4, so no bundle reaches anything: sysctl -w net.ipv4.ip_forward=1"},
		"no forwarding, Pods":   {"net/ipv4/ip_forward", "0", pods, Warning, "unless the cluster's CNI does without that, Pods, and so the bundles in them, reach nothing beyond the node: sysctl -w net.ipv4.ip_forward=1"},
		"no namespaces":         {"user/max_net_namespaces", "0", docker, Failure, "allows 0 network namespaces, and each Bottle needs two: sysctl -w user.max_net_namespaces"},
		"no namespaces, Pods":   {"user/max_net_namespaces", "0", pods, Failure, "allows 0 network namespaces, and each Bottle needs two: sysctl -w user.max_net_namespaces"},
		"br_netfilter":          {"net/bridge/bridge-nf-call-iptables", "1", docker, OK, "br_netfilter is on"},
		"br_netfilter, Pods":    {"net/bridge/bridge-nf-call-iptables", "1", pods, OK, ""},
		"br_netfilter is quiet": {"net/bridge/bridge-nf-call-iptables", "0", docker, OK, ""},
		"no IPv6":               {"net/ipv6/conf/all/disable_ipv6", "", docker, OK, "no IPv6"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, value := range good {
				setFile(t, dir, file, value)
			}
			setFile(t, dir, tt.name, tt.value)
			node := NetworkNode{ProcSys: dir, UsesDocker: tt.usesDocker, ForwardDrops: func() (bool, error) { return false, nil }}
			want(t, Network(node), tt.outcome, tt.message)
			if tt.outcome == OK {
				node.ForwardDrops = func() (bool, error) { return true, nil }
				want(t, Network(node), Warning, "FORWARD is DROP, so Pods whose CNI does not accept their traffic are cut off: iptables -P FORWARD ACCEPT")
			}
		})
	}
}

func setFile(t *testing.T, dir, name, value string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if value == "" {
		os.Remove(path)
		return
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(value+"\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestPorts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	no, yes := func() bool { return false }, func() bool { return true }
	used := []Port{{"access-bind-address", "127.0.0.1:0"}, {"health-probe-bind-address", taken.Addr().String()}}
	want(t, Ports([]Port{{"access-bind-address", "127.0.0.1:0"}, {"metrics-bind-address", "0"}}, no), OK, "")
	want(t, Ports(used, no), Failure, "another program listens on "+taken.Addr().String()+": end it (ss -ltnp shows it), or set --health-probe-bind-address")
	want(t, Ports(used, yes), OK, "an agent runs on this node")
	want(t, Ports([]Port{{"access-bind-address", "192.0.2.1:9443"}}, no), Failure, "set --access-bind-address")
}

func TestAgentRuns(t *testing.T) {
	dir := t.TempDir()
	if AgentRuns(dir) {
		t.Error("without a lock: got true, want false")
	}
	f, err := os.Create(filepath.Join(dir, "agent.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if AgentRuns(dir) {
		t.Error("nobody holds the lock: got true, want false")
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if !AgentRuns(dir) {
		t.Error("the lock is held: got false, want true")
	}
}

// cluster is a fake of Cluster. The zero value has nothing.
type cluster struct {
	down      error
	skew      time.Duration
	identity  error
	resources []string
	policies  map[string]admissionv1.ValidatingAdmissionPolicy
	bindings  map[string]admissionv1.ValidatingAdmissionPolicyBinding
	forbidden bool
}

func (c *cluster) Time(context.Context) (time.Time, error) {
	return time.Now().Add(c.skew).Truncate(time.Second), c.down
}
func (c *cluster) Identity(context.Context) error { return c.identity }
func (c *cluster) Resources(_ context.Context, v string) (out []metav1.APIResource, err error) {
	if v != "botbottle.dev/v1alpha1" || len(c.resources) == 0 {
		return nil, missing(v)
	}
	for _, name := range c.resources {
		out = append(out, metav1.APIResource{Name: name})
	}
	return out, c.down
}
func (c *cluster) Policy(_ context.Context, name string) (*admissionv1.ValidatingAdmissionPolicy, error) {
	p, has := c.policies[name]
	switch {
	case c.forbidden:
		return nil, apierrors.NewForbidden(schema.GroupResource{}, name, errors.New("no"))
	case c.down != nil:
		return nil, c.down
	case !has:
		return nil, missing(name)
	}
	return &p, nil
}
func (c *cluster) Binding(_ context.Context, name string) (*admissionv1.ValidatingAdmissionPolicyBinding, error) {
	if b, has := c.bindings[name]; has {
		return &b, nil
	}
	return nil, missing(name)
}
func missing(name string) error { return apierrors.NewNotFound(schema.GroupResource{}, name) }

// installed returns a cluster with the resources and policies of config/.
func installed(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{resources: []string{"bottles", "bottles/status"},
		policies: map[string]admissionv1.ValidatingAdmissionPolicy{}, bindings: map[string]admissionv1.ValidatingAdmissionPolicyBinding{}}
	files, err := filepath.Glob("../../config/policy/agent_*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range bytes.SplitSeq(b, []byte("\n---\n")) {
			var p admissionv1.ValidatingAdmissionPolicy
			var binding admissionv1.ValidatingAdmissionPolicyBinding
			if err := errors.Join(yaml.Unmarshal(doc, &p), yaml.Unmarshal(doc, &binding)); err != nil {
				t.Fatal(err)
			}
			switch p.Kind {
			case "ValidatingAdmissionPolicy":
				c.policies[p.Name] = p
			case "ValidatingAdmissionPolicyBinding":
				c.bindings[p.Name] = binding
			}
		}
	}
	return c
}

// The check must know every policy that restricts agents, and the agent may read them.
func TestPoliciesAreThoseOfTheConfiguration(t *testing.T) {
	var names []string
	for name := range installed(t).policies {
		names = append(names, name)
	}
	slices.Sort(names)
	if diff := cmp.Diff(names, policyNames); diff != "" {
		t.Errorf("policies (-config +checked):\n%s", diff)
	}
	data, err := os.ReadFile("../../config/rbac/agent_role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var readable []string
	for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
		var role rbacv1.ClusterRole
		if err := yaml.Unmarshal(doc, &role); err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			if role.Kind == "ClusterRole" && slices.Contains(rule.Resources, "validatingadmissionpolicies") {
				readable = append(readable, rule.ResourceNames...)
			}
		}
	}
	if diff := cmp.Diff(policyNames, readable); diff != "" {
		t.Errorf("policies (-checked +in the agent's role):\n%s", diff)
	}
}

func TestCluster(t *testing.T) {
	down := errors.New("it refuses connections")
	tests := map[string]struct {
		change  func(c *cluster)
		check   string
		outcome Outcome
		message string
	}{
		"in order":           {func(*cluster) {}, "", OK, ""},
		"API server away":    {func(c *cluster) { c.down = down }, "api-server", Failure, "cannot be used (it refuses connections): check --kubeconfig"},
		"clock unknown":      {func(c *cluster) { c.down = down }, "clock", Warning, "could not be compared"},
		"API unknown":        {func(c *cluster) { c.down = down }, "bottles-api", Failure, "(it refuses connections): see api-server"},
		"policies unknown":   {func(c *cluster) { c.down = down }, "policies", Warning, "could not be read (it refuses connections)"},
		"clock behind":       {func(c *cluster) { c.skew = time.Hour }, "clock", Failure, "behind the API server's: synchronise it"},
		"clock ahead":        {func(c *cluster) { c.skew = -time.Hour }, "clock", Failure, "ahead of the API server's: synchronise it"},
		"clock a bit behind": {func(c *cluster) { c.skew = 30 * time.Second }, "clock", Warning, "behind"},
		"other node's token": {func(c *cluster) {
			c.identity = errors.New("the agent's token is not bound to Node n; make one with: kubectl")
		}, "identity", Failure, "not bound to Node n; make one with: kubectl"},
		"no CRD":            {func(c *cluster) { c.resources = nil }, "bottles-api", Failure, "the CustomResourceDefinition is missing: install the chart"},
		"no status":         {func(c *cluster) { c.resources = []string{"bottles"} }, "bottles-api", Failure, "bottles/status"},
		"a policy missing":  {func(c *cluster) { delete(c.policies, "bottle-agent-nodes") }, "policies", Failure, "these policies are missing: bottle-agent-nodes: install the chart"},
		"a binding missing": {func(c *cluster) { delete(c.bindings, "bottle-agent-tokens") }, "policies", Failure, "missing: bottle-agent-tokens"},
		"a binding warns": {func(c *cluster) {
			b := c.bindings["bottle-agent-tokens"]
			b.Spec.ValidationActions = []admissionv1.ValidationAction{admissionv1.Warn}
			c.bindings["bottle-agent-tokens"] = b
		}, "policies", Failure, "bottle-agent-tokens (changed so that it does not deny)"},
		"a policy that fails open": {func(c *cluster) {
			p, ignore := c.policies["bottle-agent-leases"], admissionv1.Ignore
			p.Spec.FailurePolicy = &ignore
			c.policies["bottle-agent-leases"] = p
		}, "policies", Failure, "bottle-agent-leases (changed"},
		"may not read them": {func(c *cluster) { c.forbidden = true }, "policies", Warning, "apply the ClusterRole bottle-agent"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := installed(t)
			tt.change(c)
			found := false
			for _, check := range OfCluster(c) {
				if tt.check == "" || check.Name == tt.check {
					want(t, check, tt.outcome, tt.message)
					found = true
				}
			}
			if !found {
				t.Errorf("no check %s", tt.check)
			}
		})
	}
	want(t, NoCluster(), Warning, "set --kubeconfig and --node-name")
}

func TestACheckThatHangsFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		hangs := Check{"disk", func(context.Context) (Outcome, string) { <-release; return OK, "" }}
		want(t, hangs, Failure, "did not end within 30s: find what hangs")
		close(release)
	})
}

func TestReport(t *testing.T) {
	facts := OfFacts([]host.Fact{{Name: "kvm", OK: true}, {Name: "cgroups", OK: true, Message: "a note"}, {Name: "docker", Message: "away:\nstart it"}})
	r := NewReport("v1", "node-1", append(facts, Result{"disk", OK, "9.0 GiB free"}))
	for format, lines := range map[string][]string{
		"text": {"RESULT   CHECK    FOUND", "ok       kvm", "warning  cgroups  a note", "failure  docker   away:; start it", "ok       disk     9.0 GiB free", "2 ok, 1 with a warning, 1 failed"},
		"json": {`"version": "v1"`, `"node": "node-1"`, `"result": "failure"`, `"name": "docker"`, `"message": "away:\nstart it"`},
	} {
		var out bytes.Buffer
		if err := r.Write(&out, format); err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if !strings.Contains(out.String(), line) {
				t.Errorf("%s: got\n%s\nwant %q in it", format, &out, line)
			}
		}
		var back Report
		if err := json.Unmarshal(out.Bytes(), &back); format == "json" && (err != nil || !cmp.Equal(r, back)) {
			t.Errorf("read back: %v, %s", err, cmp.Diff(r, back))
		}
	}
	if err := r.Write(&bytes.Buffer{}, "yaml"); err == nil {
		t.Error("format yaml: got nil, want an error")
	}
	wantErr := "this node cannot run Bottles (1 of 4 checks failed)\n  docker: away:; start it"
	if got := fmt.Sprint(r.Err()); got != wantErr {
		t.Errorf("error: got %q, want %q", got, wantErr)
	}
	for outcome, results := range map[Outcome][]Result{OK: facts[:1], Warning: facts[:2], Failure: facts} {
		r := NewReport("", "", results)
		if r.Outcome != outcome || (r.Err() != nil) != (outcome == Failure) {
			t.Errorf("got %s with error %v, want %s", r.Outcome, r.Err(), outcome)
		}
	}
}

type trial struct {
	state   boottrial.State
	message string
}

func (t trial) State() (boottrial.State, string) { return t.state, t.message }

func TestOfTrial(t *testing.T) {
	tests := map[string]struct {
		trial trial
		err   error
		want  Result
	}{
		"booted":  {trial{boottrial.Booted, ""}, nil, Result{"kvm-boot", OK, ""}},
		"failed":  {trial{boottrial.Failed, "it does not boot: fix it"}, nil, Result{"kvm-boot", Failure, "it does not boot: fix it"}},
		"untried": {trial{boottrial.Untried, "none has booted"}, nil, Result{"kvm-boot", Warning, "none has booted: start the agent, which boots one, or run the preflight with --boot"}},
		"no verdict in spite of --boot": {trial{boottrial.Booted, ""}, errors.New("smolvm hangs"),
			Result{"kvm-boot", Failure, "no microVM could be tried (smolvm hangs): fix that, and run the preflight with --boot again"}},
	}
	for name, tt := range tests {
		if diff := cmp.Diff(tt.want, OfTrial("kvm-boot", tt.trial, tt.err)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
