// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"botbottle.dev/bottle-operator/internal/host"
)

// BenchmarkPull compares a pull into the store with a plain copy of the same
// compressed bytes into a file, from the same registry over HTTP. The store
// also decompresses them, hashes both forms, and writes the larger one.
func BenchmarkPull(b *testing.B) {
	reg := newPlainServer(b)
	// About as compressible as programs are.
	var contents []string
	for i := range 3 {
		var c strings.Builder
		for j := range 256 {
			c.WriteString(noise(byte(i*7+j), 64<<10))
			c.WriteString(strings.Repeat("usr/lib/x86_64-linux-gnu/", 4<<10))
		}
		contents = append(contents, c.String())
	}
	img := newImage(b, "amd64", contents...)
	reg.push(b, "demo:1", img)
	layers, err := img.Layers()
	if err != nil {
		b.Fatal(err)
	}
	var total int64
	var urls []string
	for _, l := range layers {
		n, err := l.Size()
		if err != nil {
			b.Fatal(err)
		}
		h, err := l.Digest()
		if err != nil {
			b.Fatal(err)
		}
		total += n
		urls = append(urls, fmt.Sprintf("%s/v2/demo/blobs/%s", reg.URL, h))
	}
	b.Run("store", func(b *testing.B) {
		b.SetBytes(total)
		for range b.N {
			dir := b.TempDir()
			s, err := New(Options{Dir: dir, AllowNetworks: loopback, PlainHTTP: []string{reg.host()}, Architecture: "amd64", Reserve: -1, Patience: DefaultPullTimeout})
			if err != nil {
				b.Fatal(err)
			}
			got, err := s.Get(b.Context(), host.ImageRequest{Reference: reg.host() + "/demo:1", For: "a"})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(got.Size), "archive-bytes")
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			os.Remove(got.Path)
		}
	})
	b.Run("copy", func(b *testing.B) {
		b.SetBytes(total)
		for range b.N {
			f, err := os.Create(filepath.Join(b.TempDir(), "copy"))
			if err != nil {
				b.Fatal(err)
			}
			for _, url := range urls {
				resp, err := http.Get(url)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(f, resp.Body); err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			f.Close()
			os.Remove(f.Name())
		}
	})
}
