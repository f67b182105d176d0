// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// bareExec is a Python program for the node. It runs a command in a guest and prints
// how many milliseconds that took and how many bytes it printed. If the second argument
// is not 0, so many bytes are its input. Without -i, smolvm cuts the output at 11 MiB.
const bareExec = `
import subprocess, sys, threading, time
name, size = sys.argv[1], int(sys.argv[2])
begin = time.monotonic()
p = subprocess.Popen(["smolvm", "machine", "exec", "-i", "--name", name, "--"] + sys.argv[3:],
    stdin=subprocess.PIPE if size else subprocess.DEVNULL, stdout=subprocess.PIPE)
def feed():
    block, left = bytes(1 << 20), size
    while left > 0:
        left -= p.stdin.write(block[:left])
    p.stdin.close()
if size:
    threading.Thread(target=feed, daemon=True).start()
total = 0
while True:
    data = p.stdout.read(1 << 16)
    if not data: break
    total += len(data)
if p.wait() != 0: sys.exit("exit code %d" % p.returncode)
print("[%f, %d]" % ((time.monotonic() - begin) * 1000, total))
`

// execBare runs a command by hand on the node.
func execBare(b *testing.B, c *story.Cluster, bottle *v1alpha1.Bottle, size int64, argv ...string) (time.Duration, int64) {
	b.Helper()
	out := c.Exec(b, node, append([]string{"python3", "-c", bareExec, story.ID(bottle), fmt.Sprint(size)}, argv...)...)
	var got [2]float64
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		b.Fatalf("bare exec printed %q: %v", out, err)
	}
	return time.Duration(got[0] * float64(time.Millisecond)), int64(got[1])
}

// accessConfig returns the configuration of a client.
func accessConfig(b *testing.B, c *story.Cluster) *rest.Config {
	b.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		b.Fatal(err)
	}
	return cfg
}

// execAPI runs a command through the API, as kubectl bottle exec does.
func execAPI(b *testing.B, cfg *rest.Config, bottle *v1alpha1.Bottle, size int64, argv ...string) (time.Duration, int64) {
	b.Helper()
	query := url.Values{"command": argv, "stdout": {"true"}, "stderr": {"true"}}
	if size > 0 {
		query.Set("stdin", "true")
	}
	target := fmt.Sprintf("%s/apis/subresources.botbottle.dev/v1alpha1/namespaces/%s/bottles/%s/exec?%s", cfg.Host, bottle.Namespace, bottle.Name, query.Encode())
	executor, err := remotecommand.NewWebSocketExecutor(cfg, "GET", target)
	if err != nil {
		b.Fatal(err)
	}
	var out counter
	var stderr strings.Builder
	options := remotecommand.StreamOptions{Stdout: &out, Stderr: &stderr}
	if size > 0 {
		options.Stdin = io.LimitReader(zeros{}, size)
	}
	ctx, cancel := context.WithTimeout(b.Context(), execTimeout)
	defer cancel()
	begin := time.Now()
	if err := executor.StreamWithContext(ctx, options); err != nil {
		b.Fatalf("exec %v: %v: %s", argv, err, stderr.String())
	}
	return time.Since(begin), int64(out)
}

// execTimeout bounds one exec.
const execTimeout = 5 * time.Minute

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// BenchmarkExec measures a round trip of exec through the API and the throughput of its
// streams, each alternately with a bare smolvm machine exec in the same guest.
func BenchmarkExec(b *testing.B) {
	c := connect(b)
	n, size := 40, int64(64<<20)
	if real() {
		n, size = 20, 4<<20
	}
	one := bottle(c.Namespace(b), "exec")
	create(b, c, one.Namespace, one)
	c.WaitRunning(b, one)
	cfg := accessConfig(b, c)

	var bare, api []time.Duration
	for range n {
		took, _ := execBare(b, c, one, 0, "true")
		bare = append(bare, took)
		took, _ = execAPI(b, cfg, one, 0, "true")
		api = append(api, took)
	}
	report(row{What: "exec of true through the API, more than a bare exec, p50", Value: ms(percentile(api, 50)) - ms(percentile(bare, 50)), Unit: "ms", Goal: "<= 15",
		Spread: fmt.Sprintf("p95 - p95 %.0f ms", ms(percentile(api, 95))-ms(percentile(bare, 95)))})
	report(row{What: "  through the API, p50", Value: ms(percentile(api, 50)), Unit: "ms", Spread: spread(api)})
	report(row{What: "  bare smolvm machine exec, p50", Value: ms(percentile(bare, 50)), Unit: "ms", Spread: spread(bare)})

	const rounds = 5
	for _, direction := range []struct {
		what  string
		input int64
		argv  []string
		want  int64
	}{
		{"exec, guest to client", 0, []string{"sh", "-c", fmt.Sprintf("head -c %d /dev/zero", size)}, size},
		{"exec, client to guest", size, []string{"sh", "-c", "wc -c >/dev/null"}, 0},
	} {
		bare, api = nil, nil
		for range rounds {
			for took, run := range map[*[]time.Duration]func() (time.Duration, int64){
				&bare: func() (time.Duration, int64) { return execBare(b, c, one, direction.input, direction.argv...) },
				&api:  func() (time.Duration, int64) { return execAPI(b, cfg, one, direction.input, direction.argv...) },
			} {
				d, got := run()
				if got != direction.want {
					b.Fatalf("%s: got %d bytes, want %d", direction.what, got, direction.want)
				}
				*took = append(*took, d)
			}
		}
		perSecond := func(sample []time.Duration) float64 {
			return float64(size) / (1 << 20) / percentile(sample, 50).Seconds()
		}
		report(row{What: direction.what + ": throughput, ratio to bare", Value: perSecond(api) / perSecond(bare), Unit: "ratio", Goal: ">= 0.8"})
		report(row{What: "  through the API, p50", Value: perSecond(api), Unit: "MiB/s", Spread: spread(api)})
		report(row{What: "  bare smolvm machine exec, p50", Value: perSecond(bare), Unit: "MiB/s", Spread: spread(bare)})
	}
	c.DeleteAndWait(b, one)
}

// BenchmarkRun measures kubectl bottle run of true until it returns, beside the bare
// commands that make a machine, start it and run true in it.
func BenchmarkRun(b *testing.B) {
	c := connect(b)
	n := 10
	if real() {
		n = 3
	}
	plugin := filepath.Join(filepath.Dir(c.Dir), "kubectl-bottle")
	if _, err := os.Stat(plugin); err != nil {
		b.Fatalf("%v: run make build", err)
	}
	ns := c.Namespace(b)
	probe := bottle(ns, "probe")
	create(b, c, ns, probe)
	c.WaitRunning(b, probe)
	whole, _ := measureBare(b, c, guestArchive, n)
	for i := range whole {
		took, _ := execBare(b, c, probe, 0, "true")
		whole[i] += took
	}
	c.DeleteAndWait(b, probe)
	var took []time.Duration
	for i := range n {
		name := fmt.Sprintf("run-%d", i)
		cmd := exec.CommandContext(b.Context(), plugin, "--kubeconfig", c.Kubeconfig, "-n", ns, "run", name, "-q", "--", "true")
		begin := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("kubectl bottle run: %v\n%s", err, out)
		}
		took = append(took, time.Since(begin))
		c.DeleteAndWait(b, bottle(ns, name))
	}
	report(row{What: "kubectl bottle run of true: until it returns, ratio of p50 to bare p50", Value: ms(percentile(took, 50)) / ms(percentile(whole, 50)), Unit: "ratio"})
	report(row{What: "  kubectl bottle run, p50", Value: ms(percentile(took, 50)), Unit: "ms", Spread: spread(took)})
	report(row{What: "  bare commands, p50", Value: ms(percentile(whole, 50)), Unit: "ms", Spread: spread(whole)})
}
