// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"botbottle.dev/bottle-operator/internal/state"
)

type flagOptions interface {
	Bind(fs *pflag.FlagSet)
	Validate() error
}

func parse(t *testing.T, o flagOptions, args ...string) error {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	fs.SetOutput(&bytes.Buffer{})
	o.Bind(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	return o.Validate()
}

func TestFlags(t *testing.T) {
	agent := func(args ...string) []string { return append([]string{"--node-name", "n"}, args...) }
	tests := map[string]struct {
		options flagOptions
		args    []string
		want    string // the flag that the error names; "" for none
	}{
		"agent, minimal": {&AgentOptions{}, agent(), ""},
		"agent, all flags": {&AgentOptions{}, agent("--kubeconfig", "f", "--namespace", "bottle-system", "--state-dir", "/s", "--docker-host", "unix:///d.sock",
			"--smolvm-dir", "/o", "--kvm-device", "", "--default-image", "file:guest.tar", "--local-image-dir", "/i",
			"--allowed-bundle-images", "a/*", "--allowed-bundle-images", "b", "--max-bottles", "3", "--max-concurrent-starts", "1",
			"--subnet-pool", "10.0.0.0/8", "--subnet-prefix", "24", "--subnet-exclude", "10.1.0.0/16,10.2.0.0/16", "--machine-poll-interval", "5s",
			"--orphan-grace-period", "10m", "--orphan-mode", "report", "--metrics-bind-address", "0", "--health-probe-bind-address", "0", "--start-timeout", "1m"), ""},
		"agent without a node":    {&AgentOptions{}, nil, "--node-name"},
		"tokens for a minute":     {&AgentOptions{}, agent("--token-lifetime", "1m"), "--token-lifetime"},
		"tokens for a year":       {&AgentOptions{}, agent("--token-lifetime", "8760h"), "--token-lifetime"},
		"a relative state dir":    {&AgentOptions{}, agent("--state-dir", "x"), "--state-dir"},
		"a relative smolvm dir":   {&AgentOptions{}, agent("--smolvm-dir", "x"), "--smolvm-dir"},
		"a relative image dir":    {&AgentOptions{}, agent("--local-image-dir", "x"), "--local-image-dir"},
		"a relative device":       {&AgentOptions{}, agent("--kvm-device", "kvm"), "--kvm-device"},
		"an absolute parent":      {&AgentOptions{}, agent("--cgroup-parent", "/bottle.slice"), "--cgroup-parent"},
		"a parent that climbs":    {&AgentOptions{}, agent("--cgroup-parent", "bottle.slice/../x"), "--cgroup-parent"},
		"another parent":          {&AgentOptions{}, agent("--cgroup-parent", "bottle-dev-node-1.slice"), ""},
		"a reference as default":  {&AgentOptions{}, agent("--default-image", "ghcr.io/org/guest:1"), ""},
		"no room for images":      {&AgentOptions{}, agent("--image-max-bytes", "0"), "--image-max-bytes"},
		"watermarks upside down":  {&AgentOptions{}, agent("--image-gc-high", "50", "--image-gc-low", "60"), "--image-gc-low"},
		"images kept too briefly": {&AgentOptions{}, agent("--image-gc-min-age", "59s"), "--image-gc-min-age"},
		"images kept for 1m":      {&AgentOptions{}, agent("--image-gc-min-age", "1m"), ""},
		"no time to pull":         {&AgentOptions{}, agent("--image-pull-timeout", "0s"), "--image-pull-timeout"},
		"no pulls":                {&AgentOptions{}, agent("--max-concurrent-pulls", "0"), "--max-concurrent-pulls"},
		"a registry's network":    {&AgentOptions{}, agent("--registry-allow-networks", "127.0.0.1/32,fd00:7::/64", "--registry-allow-networks", "10.0.0.5/32"), ""},
		"an address, no network":  {&AgentOptions{}, agent("--registry-allow-networks", "127.0.0.1"), "--registry-allow-networks"},
		"a network with a host":   {&AgentOptions{}, agent("--registry-allow-networks", "10.0.0.5/8"), "write 10.0.0.0/8, or /32 for one address"},
		"a mapped network":        {&AgentOptions{}, agent("--registry-allow-networks", "::ffff:10.0.0.0/104"), "--registry-allow-networks"},
		"every network":           {&AgentOptions{}, agent("--registry-allow-networks", "10.0.0.0/8,::/0"), "--registry-allow-networks ::/0"},
		"reserved networks":       {&AgentOptions{}, agent("--reserved-networks", "192.168.64.0/18,10.0.0.0/8", "--reserved-networks", "fd00::/8"), ""},
		"a reserved address":      {&AgentOptions{}, agent("--reserved-networks", "10.244.0.0"), "--reserved-networks"},
		"a reserved host":         {&AgentOptions{}, agent("--reserved-networks", "10.244.0.7/16"), "--reserved-networks 10.244.0.7/16: it has bits beyond its mask: write 10.244.0.0/16"},
		"everything is reserved":  {&AgentOptions{}, agent("--reserved-networks", "10.0.0.0/8,0.0.0.0/0"), "--reserved-networks 0.0.0.0/0"},
		"a target without port":   {&AgentOptions{}, agent("--proof-target", "1.1.1.1"), "--proof-target"},
		"a relative program":      {&AgentOptions{}, agent("--guest-program", "bottle-guest"), "--guest-program"},
		"a check once a year":     {&AgentOptions{}, agent("--wall-check-interval", "8760h"), "--wall-check-interval"},
		"a path as default":       {&AgentOptions{}, agent("--default-image", "file:../x"), "--default-image"},
		"no default image":        {&AgentOptions{}, agent("--default-image", ""), ""},
		"an invalid glob":         {&AgentOptions{}, agent("--allowed-bundle-images", "["), "--allowed-bundle-images"},
		"negative bottles":        {&AgentOptions{}, agent("--max-bottles", "-1"), "--max-bottles"},
		"no starts":               {&AgentOptions{}, agent("--max-concurrent-starts", "0"), "--max-concurrent-starts"},
		"polls too often":         {&AgentOptions{}, agent("--machine-poll-interval", "1ms"), "--machine-poll-interval"},
		"no grace":                {&AgentOptions{}, agent("--orphan-grace-period", "0"), "--orphan-grace-period"},
		"another mode":            {&AgentOptions{}, agent("--orphan-mode", "ask"), "--orphan-mode"},
		"an invalid pool":         {&AgentOptions{}, agent("--subnet-pool", "x"), "--subnet-pool"},
		"an empty pool":           {&AgentOptions{}, agent("--subnet-exclude", "192.168.0.0/16"), "--subnet-exclude"},
		"a closed network":        {&AgentOptions{}, agent("--egress-closed", "10.96.0.0/12,10.244.0.0/16", "--egress-closed", "fd00::/8"), ""},
		"no closed network":       {&AgentOptions{}, agent("--egress-closed="), ""},
		"a closed host":           {&AgentOptions{}, agent("--egress-closed", "10.96.0.0/12,kubernetes.default"), `--egress-closed "kubernetes.default": want a network such as`},
		"closed, with host bits":  {&AgentOptions{}, agent("--egress-closed", "10.96.0.1/12"), `--egress-closed "10.96.0.1/12": has host bits set; the network is 10.96.0.0/12`},
		"closed, mapped":          {&AgentOptions{}, agent("--egress-closed", "::ffff:10.96.0.0/108"), `--egress-closed "::ffff:10.96.0.0/108": want an IPv4 network`},
		"a ceiling":               {&AgentOptions{}, agent("--egress-ceiling", "*.example.com,10.0.0.0/8:5432", "--egress-ceiling", "[2001:db8::/32]:443"), ""},
		"no ceiling":              {&AgentOptions{}, agent("--egress-ceiling="), ""},
		"an invalid ceiling":      {&AgentOptions{}, agent("--egress-ceiling", "a.example.com,https://b.example.com"), `--egress-ceiling: egress rule "https://b.example.com": is a URL`},
		"a ceiling of loopback":   {&AgentOptions{}, agent("--egress-ceiling", "127.0.0.1"), `--egress-ceiling: egress rule "127.0.0.1"`},
		"metrics without a port":  {&AgentOptions{}, agent("--metrics-bind-address", "127.0.0.1"), "--metrics-bind-address"},
		"manager, bad metrics":    {&ManagerOptions{}, []string{"--metrics-bind-address", "8443"}, "--metrics-bind-address"},
		"manager, no metrics":     {&ManagerOptions{}, []string{"--metrics-bind-address", "0"}, ""},
		"manager, minimal":        {&ManagerOptions{}, nil, ""},
		"manager, 17 CPUs":        {&ManagerOptions{}, []string{"--default-cpus", "17"}, "--default-cpus"},
		"manager, no quantity":    {&ManagerOptions{}, []string{"--default-memory", "much"}, "--default-memory"},
		"manager, negative":       {&ManagerOptions{}, []string{"--overhead-cpu", "-1"}, "--overhead-cpu"},
		"manager, a tiny bundle":  {&ManagerOptions{}, []string{"--bundle-memory", "16Mi"}, "--bundle-memory"},
		"manager, an idle bundle": {&ManagerOptions{}, []string{"--bundle-cpu", "0"}, "--bundle-cpu"},
		"manager, no bundle size": {&ManagerOptions{}, []string{"--bundle-memory", "much"}, "--bundle-memory"},
		"manager, negative disk":  {&ManagerOptions{}, []string{"--default-disk", "-1Gi"}, "--default-disk"},
		"manager, no disk":        {&ManagerOptions{}, []string{"--default-disk", "0"}, ""},
		"manager, earlier flag":   {&ManagerOptions{}, []string{"--placeholder-image", "pause"}, ""},
		"manager, a glob":         {&ManagerOptions{}, []string{"--allowed-bundle-images", "["}, "--allowed-bundle-images"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := parse(t, tt.options, tt.args...)
			if tt.want == "" {
				if err != nil {
					t.Errorf("got %v, want nil", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error that names %s", err, tt.want)
			}
		})
	}
}

func TestEveryInvalidFlagIsReported(t *testing.T) {
	err := parse(t, &AgentOptions{}, "--max-bottles", "-1", "--default-image", "file:")
	for _, flag := range []string{"--node-name", "--max-bottles", "--default-image"} {
		if err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("got %v, want %s in it", err, flag)
		}
	}
}

func TestLogs(t *testing.T) {
	for _, o := range []LogOptions{{"loud", "json"}, {"info", "xml"}} {
		if err := o.Install(&bytes.Buffer{}); err == nil {
			t.Errorf("%+v: got nil, want an error", o)
		}
	}
}

// net/http writes what a registry sends unasked to the standard logger.
func TestStandardLogIsDiscarded(t *testing.T) {
	var out bytes.Buffer
	log.SetOutput(&out)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	if err := (&LogOptions{Level: "debug", Format: "text"}).Install(io.Discard); err != nil {
		t.Fatal(err)
	}
	log.Print("a stranger's words")
	if out.Len() > 0 {
		t.Errorf("got %q logged, want nothing", out.String())
	}
}

func TestPrintVersion(t *testing.T) {
	var out bytes.Buffer
	if err := PrintVersion(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"bottle-operator ", "commit ", "oldest 0.8.0", "reference 1.32.2"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %q, want %q in it", out.String(), want)
		}
	}
}

func TestStateDirHasOneAgent(t *testing.T) {
	o := &AgentOptions{StateDir: filepath.Join(t.TempDir(), "state")}
	ctx := t.Context()
	if _, err := o.openState(ctx); err != nil {
		t.Fatal(err)
	}
	other := *o
	short, cancel := withShortTimeout(ctx)
	defer cancel()
	if _, err := other.openState(short); !errors.Is(err, state.ErrInUse) {
		t.Errorf("a second agent: got %v, want %v", err, state.ErrInUse)
	}
	if _, err := os.Stat(filepath.Join(o.StateDir, "bottles")); err != nil {
		t.Error(err)
	}
}

func withShortTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 10*time.Millisecond)
}

// docs/images.md lists each flag of the image store.
func TestImageFlagsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/images.md")
	if err != nil {
		t.Fatal(err)
	}
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	(&ImageOptions{}).Bind(fs)
	fs.VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(string(page), "\n| `--"+f.Name+"` |") {
			t.Errorf("docs/images.md: got no line for --%s, want one", f.Name)
		}
	})
	for _, m := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		if fs.Lookup(m[1]) == nil {
			t.Errorf("docs/images.md: got a line for --%s, which is not a flag", m[1])
		}
	}
}
