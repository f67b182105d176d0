// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/story"
)

// archiveOf returns the path at which the agent stores an image.
func archiveOf(digest string) string {
	return "/var/lib/bottle/images/" + strings.TrimPrefix(digest, "sha256:") + ".flat.tar"
}

func withImage(ns, name, repositoryTag string) *v1alpha1.Bottle {
	one := bottle(ns, name)
	image := story.RegistryHost + "/" + repositoryTag
	one.Spec.Image = &image
	return one
}

// watcher is a Python program that prints the name of each machine when smolvm first
// lists it, until its standard input ends. It lists machines only after smolvm wrote
// its database, because listing constantly would distort the measurement.
const watcher = `
import json, os, subprocess, sys, threading, time
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
records, known, before = os.environ["HOME"] + "/.local/share/smolvm/server", set(), None
while True:
    try:
        now = sorted((e.name, e.stat().st_mtime_ns, e.stat().st_size) for e in os.scandir(records) if e.name.startswith("smolvm.db"))
    except FileNotFoundError: # a journal file that has just disappeared
        continue
    if now != before:
        out = subprocess.run(["smolvm", "machine", "ls", "--json"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout
        for machine in json.loads(out):
            if machine["name"] not in known:
                known.add(machine["name"])
                print(machine["name"], flush=True)
    before = now
    time.sleep(0.005)
`

// watchMachines starts watcher. listed returns when a machine was first listed, or
// the zero time.
func watchMachines(b *testing.B, c *story.Cluster) (listed func(name string) time.Time) {
	b.Helper()
	cmd := exec.Command(filepath.Join(c.Dir, "exec"), node, "python3", "-c", watcher)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string]time.Time{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			mu.Lock()
			seen[lines.Text()] = time.Now()
			mu.Unlock()
		}
	}()
	b.Cleanup(func() {
		in.Close()
		<-done
		_ = cmd.Wait() // its end was requested
	})
	return func(name string) time.Time {
		mu.Lock()
		defer mu.Unlock()
		return seen[name]
	}
}

// BenchmarkStoredImage measures the time from creating a Bottle until its machine
// exists, for an image that the node already has. It compares that with the commands
// that do the same by hand with the same archive.
func BenchmarkStoredImage(b *testing.B) {
	c := connect(b)
	n := 12
	if real() {
		n = 3
	}
	ns := c.Namespace(b)
	digest := c.PushGuest(b, node, ns+"/stored:1")
	// The first machine stays, and with it what smolvm caches of the archive.
	first := withImage(ns, "first", ns+"/stored:1")
	create(b, c, ns, first)
	_, parts := measureBare(b, c, archiveOf(digest), n)
	created, whole := parts[2], []time.Duration{}
	for i := range created {
		whole = append(whole, parts[0][i]+parts[1][i]+created[i])
	}
	listed := watchMachines(b, c)
	took := []time.Duration{}
	for i := range n {
		one := withImage(ns, fmt.Sprintf("stored-%d", i), ns+"/stored:1")
		begin := time.Now()
		create(b, c, ns, one)
		at := listed(story.ID(one))
		if at.IsZero() {
			b.Fatalf("the machine of %s runs, but smolvm did not list it", one.Name)
		}
		took = append(took, at.Sub(begin))
		c.DeleteAndWait(b, one)
	}
	report(row{What: "image in the store: create → machine in smolvm's list, ratio of p50 to bare p50", Value: ms(percentile(took, 50)) / ms(percentile(whole, 50)), Unit: "ratio", Goal: "<= 1.25",
		Spread: fmt.Sprintf("p95/p95 %.2f", ms(percentile(took, 95))/ms(percentile(whole, 95)))})
	report(row{What: "image in the store: create → machine in smolvm's list, p50", Value: ms(percentile(took, 50)), Unit: "ms", Spread: spread(took)})
	report(row{What: "  bare: network, container, smolvm machine create, p50", Value: ms(percentile(whole, 50)), Unit: "ms", Spread: spread(whole)})
	report(row{What: "  bare: only smolvm machine create, p50", Value: ms(percentile(created, 50)), Unit: "ms", Spread: spread(created)})
}

// dockerPull is a Python program that prints the duration of a docker pull in
// seconds, and removes the image again.
const dockerPull = `
import subprocess, sys, time
quiet = dict(check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
begin = time.monotonic()
subprocess.run(["docker", "pull", "-q", sys.argv[1]], **quiet)
print(time.monotonic() - begin)
subprocess.run(["docker", "rmi", sys.argv[1]], **quiet)
`

const (
	pullSum   = "bottle_agent_image_pull_duration_seconds_sum"
	pullCount = "bottle_agent_image_pull_duration_seconds_count"
)

// BenchmarkPull compares the agent's pull of an image of programs with docker's. Both
// pull from the same registry, one after the other. The agent's image is verified,
// unpacked and synced to the disk; docker's is not synced.
func BenchmarkPull(b *testing.B) {
	c := connect(b)
	if real() {
		b.Skip("the same code pulls on real nodes, but an emulated node needs minutes for it")
	}
	const n = 7
	ns := c.Namespace(b)
	img, sent, unpacked := programs(b, c)
	digest := c.PushImage(b, node, ns+"/programs:1", img)
	docker, agent := []time.Duration{}, []time.Duration{}
	for i := range n {
		settleDisk(b, c)
		var seconds float64
		out := c.Exec(b, node, "python3", "-c", dockerPull, story.RegistryHost+"/"+ns+"/programs:1")
		if err := json.Unmarshal([]byte(out), &seconds); err != nil {
			b.Fatalf("docker pull printed %q: %v", out, err)
		}
		docker = append(docker, inSeconds(seconds))

		settleDisk(b, c)
		sum, count := sumOf(b, c, pullSum), sumOf(b, c, pullCount)
		one := withImage(ns, fmt.Sprintf("pull-%d", i), ns+"/programs:1")
		create(b, c, ns, one)
		if got := sumOf(b, c, pullCount) - count; got != 1 {
			b.Fatalf("pulls for %s: got %v, want 1", one.Name, got)
		}
		agent = append(agent, inSeconds(sumOf(b, c, pullSum)-sum))
		c.DeleteAndWait(b, one)
		c.Exec(b, node, "rm", archiveOf(digest))
	}
	throughput := func(d time.Duration) float64 { return sent / d.Seconds() }
	report(row{What: fmt.Sprintf("pull of %.0f MiB, %.0f unpacked: throughput, ratio of p50 to docker pull's", sent, unpacked), Value: throughput(percentile(agent, 50)) / throughput(percentile(docker, 50)), Unit: "ratio", Goal: ">= 1",
		Spread: fmt.Sprintf("p95/p95 %.2f", throughput(percentile(agent, 95))/throughput(percentile(docker, 95)))})
	report(row{What: "  the agent's pull, p50", Value: throughput(percentile(agent, 50)), Unit: "MiB/s", Spread: spread(agent)})
	report(row{What: "  docker pull, p50", Value: throughput(percentile(docker, 50)), Unit: "MiB/s", Spread: spread(docker)})
}

func inSeconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// settleDisk syncs the disk, so that no pull pays for earlier writes.
func settleDisk(b *testing.B, c *story.Cluster) {
	b.Helper()
	c.Exec(b, node, "sync", "-f", "/var/lib/docker")
}

// programs returns the guest image with three programs, each in its own layer, and
// the size of these layers in MiB, as sent and unpacked.
func programs(b *testing.B, c *story.Cluster) (img v1.Image, sent, unpacked float64) {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	img = c.NewGuest(b)
	bin := filepath.Dir(c.Dir)
	for _, path := range []string{filepath.Join(bin, "bottle-operator"), filepath.Join(bin, "kubectl"), self} {
		layer, content := layerOf(b, path)
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			b.Fatal(err)
		}
		size, err := layer.Size()
		if err != nil {
			b.Fatal(err)
		}
		sent, unpacked = sent+float64(size)/(1<<20), unpacked+float64(content)/(1<<20)
	}
	return img, sent, unpacked
}

// layerOf returns a layer with one file, and its unpacked size in bytes.
func layerOf(b *testing.B, path string) (l v1.Layer, unpacked int) {
	b.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	err = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "opt/" + filepath.Base(path), Mode: 0o755, Size: int64(len(content))})
	_, writeErr := w.Write(content)
	if err := errors.Join(err, writeErr, w.Close()); err != nil {
		b.Fatal(err)
	}
	l, err = tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil }, tarball.WithCompressedCaching)
	if err != nil {
		b.Fatal(err)
	}
	return l, packed.Len()
}
