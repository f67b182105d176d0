// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	// stream is the number of bytes of one response in the throughput runs.
	stream = 128 << 20
	// rounds is how often each kind of request is measured.
	rounds = 300
	// openedConnections is how many clients are connected for the second memory row.
	openedConnections = 100

	bundleAddr = "192.0.2.2:8888"
	serverAddr = "203.0.113.10:443"
	credential = "sk-bench-0123456789abcdefghijklmnopqrstuvwxyz"
)

// BenchmarkOpened compares requests through the real bundle, by a tunnel and by an
// opened host whose rule adds a credential, with direct requests to the same server.
// Client, bundle and server are in three network namespaces; the client's traffic to
// the server is routed through that of the bundle. None of them has a way out.
func BenchmarkOpened(b *testing.B) {
	n := newNetwork(b)
	pid := n.startBundle(b)
	report(row{What: "bundle: RSS idle, with 1 credential and 100 Secrets", Value: rss(b, pid), Unit: "MiB", Goal: "<= 12"})
	n.latency(b, "HTTP/1.1")
	n.latency(b, "HTTP/2")
	n.throughput(b, pid)
	n.manyConnections(b, pid)
}

// latency measures small requests, on new connections and on a kept one.
func (n *benchNetwork) latency(b *testing.B, protocol string) {
	b.Helper()
	kinds := []string{"direct", "tunnel", "opened"}
	kept := map[string]*http.Client{}
	for _, kind := range kinds {
		kept[kind] = n.client(kind, protocol)
		get(b, kept[kind], kind, "/small")
	}
	for _, what := range []string{"kept connection", "new connection"} {
		took := map[string][]time.Duration{}
		for i := range rounds {
			for j := range kinds {
				kind := kinds[(i+j)%len(kinds)] // none always follows the same one
				client := kept[kind]
				if what == "new connection" {
					client = n.client(kind, protocol)
				}
				begin := time.Now()
				get(b, client, kind, "/small")
				took[kind] = append(took[kind], time.Since(begin))
				if client != kept[kind] {
					client.CloseIdleConnections()
				}
			}
		}
		direct := percentile(took["direct"], 50)
		for _, kind := range kinds {
			r := row{What: fmt.Sprintf("request, %s, %s: %s", protocol, what, kind), Value: ms(percentile(took[kind], 50)), Unit: "ms", Spread: fineSpread(took[kind])}
			report(r)
		}
		for kind, goal := range map[string]string{"tunnel": "<= 1", "opened": "<= 3"} {
			report(row{What: fmt.Sprintf("  %s adds at p50 (%s, %s)", kind, protocol, what), Value: ms(percentile(took[kind], 50) - direct), Unit: "ms", Goal: goal})
			report(row{What: fmt.Sprintf("  %s adds at p95 (%s, %s)", kind, protocol, what), Value: ms(percentile(took[kind], 95) - percentile(took["direct"], 95)), Unit: "ms"})
		}
	}
}

func fineSpread(sample []time.Duration) string {
	return fmt.Sprintf("p50 %.2f p95 %.2f ms, n=%d", ms(percentile(sample, 50)), ms(percentile(sample, 95)), len(sample))
}

// throughput measures one long response at a time, and the CPU time that the bundle
// needs for it, which other work on the machine hardly changes.
func (n *benchNetwork) throughput(b *testing.B, pid int) {
	b.Helper()
	kinds := []string{"direct", "tunnel", "opened", "opened, HTTP/2"}
	took := map[string][]time.Duration{}
	cpu, all := map[string]time.Duration{}, map[string]time.Duration{} // of the bundle, and with both ends
	for range 5 {
		for _, kind := range kinds {
			name, _, _ := strings.Cut(kind, ",")
			protocol := "HTTP/1.1"
			if name != kind {
				protocol = "HTTP/2"
			}
			client := n.client(name, protocol)
			get(b, client, name, "/small")
			begin, used, ends := time.Now(), cpuTime(b, pid), cpuTime(b, os.Getpid())
			if got := get(b, client, name, "/stream"); got != stream {
				b.Fatalf("%s: got %d bytes, want %d", kind, got, stream)
			}
			took[kind] = append(took[kind], time.Since(begin))
			cpu[kind] += cpuTime(b, pid) - used
			all[kind] += cpuTime(b, pid) - used + cpuTime(b, os.Getpid()) - ends
			client.CloseIdleConnections()
		}
	}
	ratio := func(kind string) float64 {
		return float64(percentile(took["tunnel"], 50)) / float64(percentile(took[kind], 50))
	}
	report(row{What: "stream: throughput of an opened host, ratio to a tunnel's", Value: ratio("opened"), Unit: "ratio", Goal: ">= 0.5",
		Spread: fmt.Sprintf("opened %s; tunnel %s", spread(took["opened"]), spread(took["tunnel"]))})
	report(row{What: "  the same ratio by the CPU time of bundle, client and server", Value: float64(all["tunnel"]) / float64(all["opened"]), Unit: "ratio"})
	report(row{What: "  by HTTP/2, ratio to a tunnel's by HTTP/1.1", Value: ratio("opened, HTTP/2"), Unit: "ratio"})
	for _, kind := range kinds {
		report(row{What: "  stream: " + kind, Value: stream / 1e6 / percentile(took[kind], 50).Seconds(), Unit: "MB/s",
			Spread: fmt.Sprintf("%.2f s of the bundle's CPU time for each GB", cpu[kind].Seconds()*1e9/stream/float64(len(took[kind])))})
	}
}

// manyConnections measures the bundle's memory while many clients each read a stream.
func (n *benchNetwork) manyConnections(b *testing.B, pid int) {
	b.Helper()
	for range openedConnections {
		client := n.client("opened", "HTTP/1.1")
		resp, err := client.Get("https://opened.test/hold")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			resp.Body.Close()
			client.CloseIdleConnections()
		})
		if _, err := io.ReadFull(resp.Body, make([]byte, len(firstEvent))); err != nil {
			b.Fatal(err)
		}
	}
	report(row{What: fmt.Sprintf("bundle: RSS with %d opened connections", openedConnections), Value: rss(b, pid), Unit: "MiB", Goal: "<= 30"})
}

// get reads the response to a request and returns its length. It fails the benchmark
// if the request did not take the way that is measured.
func get(b *testing.B, client *http.Client, kind, path string) int64 {
	b.Helper()
	resp, err := client.Get("https://" + kind + ".test" + path)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	size, err := io.Copy(io.Discard, resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Fatalf("%s%s: got %d bytes, %s, %v", kind, path, size, resp.Status, err)
	}
	if got, want := resp.Header.Get("Had-Credential"), strconv.FormatBool(kind == "opened"); got != want {
		b.Fatalf("%s: got a request with the credential: %s, want %s", kind, got, want)
	}
	return size
}
