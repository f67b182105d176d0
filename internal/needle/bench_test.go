// SPDX-License-Identifier: Apache-2.0

package needle_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"botbottle.dev/bottle-operator/internal/needle"
)

// randomValues returns printable values, of which some begin as tokens do.
func randomValues(number, length int) []needle.Secret {
	random := rand.New(rand.NewPCG(1, 2))
	var out []needle.Secret
	for i := range number {
		value := []byte([]string{"sk-ant-api03-", "ghp_", "", "eyJhbGciOi"}[i%4])
		for len(value) < length {
			value = append(value, base64.URLEncoding.EncodeToString([]byte{byte(random.Uint32()), 0, 0})[0])
		}
		out = append(out, needle.Secret{Name: fmt.Sprint(i), Value: value})
	}
	return out
}

// ordinary returns about a megabyte of text of one kind.
func ordinary(kind string) []byte {
	random := rand.New(rand.NewPCG(3, 4))
	words := strings.Fields(`the of and to a in that is was he for it with as his on be at by had not are but from
		or have an they which one you were her all she there would their we him been has when who will more no if
		out so said what up its about into than them can only other new some could time these two may then do
		function return const import package func string error context request response message content
		assistant token model stream delta index type text`)
	var prose bytes.Buffer
	for prose.Len() < 1<<20 {
		prose.WriteString(words[random.IntN(len(words))])
		prose.WriteByte(" ,.\n"[max(0, random.IntN(40)-36)])
		prose.WriteByte(' ')
	}
	switch kind {
	case "events":
		var b bytes.Buffer
		for i := 0; b.Len() < 1<<20; i++ {
			delta, _ := json.Marshal(map[string]any{"type": "content_block_delta", "index": i, "delta": map[string]any{"type": "text_delta", "text": prose.String()[i*30 : i*30+30]}})
			fmt.Fprintf(&b, "event: content_block_delta\ndata: %s\n\n", delta)
		}
		return b.Bytes()
	case "JSON":
		out, _ := json.Marshal(prose.String())
		return out
	case "binary":
		out := make([]byte, 1<<20)
		for i := range out {
			out[i] = byte(random.Uint32())
		}
		return out
	case "base64":
		return []byte(base64.StdEncoding.EncodeToString(ordinary("binary")[:768<<10]))
	case "form":
		return []byte(url.QueryEscape(prose.String()))
	}
	return prose.Bytes()
}

// cpuTime returns the CPU time of the process.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func BenchmarkMask(b *testing.B) {
	for _, kind := range []string{"prose", "events", "JSON", "binary", "base64", "form"} {
		for _, secrets := range []int{1, 8, 200} {
			b.Run(fmt.Sprintf("%s/%d", kind, secrets), func(b *testing.B) {
				text, set, buf := ordinary(kind), needle.Compile(randomValues(secrets, 64)), make([]byte, 32<<10)
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				begin := cpuTime(b)
				defer func() { // what a loaded machine does not change
					b.ReportMetric(float64(len(text))*float64(b.N)/(cpuTime(b)-begin).Seconds()/1e6, "MB/cpu-s")
				}()
				for b.Loop() {
					n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{set.NewMask(bytes.NewReader(text))}, buf)
					if err != nil || n != int64(len(text)) {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}

// BenchmarkCompile measures the memory of the largest set that is expected.
func BenchmarkCompile(b *testing.B) {
	secrets := randomValues(200, 4<<10)
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		set := needle.Compile(secrets)
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(set)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1024, "KiB-held")
}

func BenchmarkMaskString(b *testing.B) {
	set := needle.Compile(randomValues(8, 64))
	b.ReportAllocs()
	for b.Loop() {
		set.MaskString("application/json; charset=utf-8")
	}
}
