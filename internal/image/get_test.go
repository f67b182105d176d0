// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	clocktesting "k8s.io/utils/clock/testing"

	"botbottle.dev/bottle-operator/internal/host"
)

// No secret appears in an error, an Event or a file of the store, whatever goes
// wrong.
func TestSecretsAreNotDisclosed(t *testing.T) {
	w := newWorld(t)
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	w.reg.setPrivate("demo", "alice:hunter2-right")
	req := w.request("demo:1", "a")
	req.PullSecrets = []host.PullSecret{
		{Name: "broken", Content: []byte(`{"auths": hunter2-broken`)},
		secretFor(w.reg.host(), "alice:hunter2-wrong"),
	}
	var texts []string
	try := func() {
		_, err := w.settle(req)
		texts = append(texts, fmt.Sprintf("%v %+v %#v", err, err, errors.Unwrap(err)))
		w.clock.Step(lastBackoff)
	}
	try() // the server's answer repeats the credentials
	w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/" { // no credentials yet
			return false
		}
		_, password, _ := r.BasicAuth()
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(rw, `{"errors":[{"code":"X","message":"see https://u:hunter2-url@h/?token=hunter2-token, %s, %s, eyJhbGciOiJIUzI1NiJ9.hunter2.x, Bearer hunter2-bearer"}]}`, password, r.Header.Get("Authorization"))
		return true
	})
	req.PullSecrets = append(req.PullSecrets, secretFor(w.reg.host(), "alice:hunter2-right"))
	try()
	w.reg.setFault(func(rw http.ResponseWriter, r *http.Request) bool {
		http.Redirect(rw, r, "https://u:hunter2-redirect@"+closedPort(t)+"/?sig=hunter2-sig", http.StatusFound)
		return true
	})
	try()
	w.reg.setFault(nil)
	w.want(req)
	_, err := w.Get(t.Context(), host.ImageRequest{Reference: "https://u:hunter2-name@h/x"})
	texts = append(texts, err.Error())
	w.Close()
	texts = append(texts, w.events...)
	err = filepath.WalkDir(w.o.Dir, func(path string, d fs.DirEntry, err error) error {
		texts = append(texts, path)
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".tar") {
			return err
		}
		data, err := os.ReadFile(path)
		texts = append(texts, string(data))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(texts) < 8 {
		t.Errorf("got %q, want more texts to check", texts)
	}
	for _, text := range texts {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "YWxpY2U6") { // base64 of alice:
			t.Errorf("got a secret in %q", text)
		}
		if strings.Contains(text, "://") {
			t.Errorf("got a URL in %q", text)
		}
	}
}

func TestBackoffGrowsToItsBound(t *testing.T) {
	w := newWorld(t)
	req := w.request("absent:1", "a")
	var got []time.Duration
	for range 8 {
		failed := w.wantFailed(req, "404", "check the image's name and tag")
		got = append(got, failed.Until.Sub(w.clock.Now()))
		w.clock.SetTime(failed.Until)
	}
	var want []time.Duration
	for _, s := range []int{10, 20, 40, 80, 160, 300, 300, 300} {
		want = append(want, time.Duration(s)*time.Second)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("backoff (-want +got):\n%s", diff)
	}
	// Other secrets make it another request, which is tried immediately.
	w.wantFailed(req)
	other := req
	other.PullSecrets = []host.PullSecret{secretFor(w.reg.host(), "alice:word")}
	if failed := w.wantFailed(other); failed.BackOff || failed.Until.Sub(w.clock.Now()) != firstBackoff {
		t.Errorf("changed secrets: got %+v, want a first failure", failed)
	}
	// The backoff starts again after a success, and after a long time.
	w.clock.Step(lastBackoff)
	w.reg.push(t, "absent:1", newImage(t, "amd64", "one"))
	w.want(req)
	req.Policy = host.PullAlways
	w.clock.Step(answerReusable)
	w.reg.setFault(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	if failed := w.wantFailed(req); failed.Until.Sub(w.clock.Now()) != firstBackoff {
		t.Errorf("after a success: got a backoff of %v, want %v", failed.Until.Sub(w.clock.Now()), firstBackoff)
	}
	w.reg.setFault(nil)
	w.clock.Step(failureKept + lastBackoff + 1)
	gone := w.request("gone:1", "a")
	w.wantFailed(gone)
	w.clock.Step(failureKept + firstBackoff + 1)
	w.wantFailed(w.request("gone:2", "a")) // prunes
	if failed := w.wantFailed(gone); failed.Until.Sub(w.clock.Now()) != firstBackoff {
		t.Errorf("long after: got a backoff of %v, want %v", failed.Until.Sub(w.clock.Now()), firstBackoff)
	}
}

func TestPatience(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.Patience = 20 * time.Second
		o.Clock = nil
	})
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	if img, err := w.Get(t.Context(), w.request("demo:1", "a")); err != nil || img.Path == "" {
		t.Errorf("got %v %v, want the image from one call", img, err)
	}
	w.put("a.tar", saved(t, newImage(t, "amd64", "one")))
	if img, err := w.Get(t.Context(), local("a.tar")); err != nil || img.Path == "" {
		t.Errorf("local: got %v %v, want the image from one call", img, err)
	}
	if _, err := w.Get(t.Context(), w.request("absent:1", "a")); err == nil {
		t.Error("absent: got an image, want a failure")
	}
}

func TestProgressIsReported(t *testing.T) {
	clock := clocktesting.NewFakeClock(time.Unix(1000, 0))
	notified := 0
	f := &fetch{progress: progress{clock: clock, notify: func() { notified++ }}}
	f.setTotal(1 << 30)
	messages := map[string]bool{}
	for range 1 << 10 {
		f.add(1 << 20)
		clock.Step(time.Second)
		messages[f.pullingError("image demo:1", "registry.test", newSlots(3)).Error()] = true
	}
	if notified != 11 || len(messages) != 11 || !messages["pulling image demo:1: 30% of 1 GiB"] {
		t.Errorf("got %d calls and %v, want one for the total and one for each tenth", notified, messages)
	}
	f.setTotal(1 << 30)
	f.progress.done, notified = 0, 0
	for range 1 << 10 {
		f.add(1 << 20) // all at the same time
	}
	if notified != 0 {
		t.Errorf("fast: got %d calls, want none: the pull ends soon enough", notified)
	}
}

func TestPullWaitsForSlot(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxPulls = 1 })
	for _, ref := range []string{"a:1", "b:1"} {
		w.reg.push(t, ref, newImage(t, "amd64", ref))
	}
	held := make(chan struct{})
	w.reg.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			<-held
		}
		return false
	})
	answers := map[string]string{}
	deadline := time.Now().Add(20 * time.Second)
	for !strings.Contains(answers["a:1"]+answers["b:1"], "waiting for other images; the node pulls at most 1 at a time") {
		for _, ref := range []string{"a:1", "b:1"} {
			_, err := w.Get(t.Context(), w.request(ref, ref))
			answers[ref] = fmt.Sprint(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want one of them waiting", answers)
		}
	}
	if n := w.reg.count("/blobs/"); n > 1 {
		t.Errorf("got %d concurrent requests for blobs, want at most one", n)
	}
	close(held)
	w.want(w.request("a:1", "a"))
	w.want(w.request("b:1", "a"))
}

// gatherMetrics returns the store's metrics by name and label.
func gatherMetrics(t *testing.T, reg prometheus.Gatherer) map[string]float64 {
	t.Helper()
	got := map[string]float64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := strings.TrimPrefix(f.GetName(), "bottle_agent_image_")
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			got[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return got
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m, err := NewMetrics(reg)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(o *Options) { o.Metrics = m })
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	img := w.want(w.request("demo:1", "a"))
	always := w.request("demo:1", "b")
	always.Policy = host.PullAlways
	w.want(always)
	w.wantFailed(w.request("absent:1", "a"))
	w.Close() // every pull is counted
	got := gatherMetrics(t, reg)
	want := map[string]float64{
		"pulls_total pulled": 1, "pulls_total present": 1, "pulls_total failed": 1, "pull_duration_seconds": 1,
		"archives": 1, "store_bytes": float64(img.Size), "collected_bytes_total": 0,
		"collect_failures_total": 0, "collect_short_bytes": 0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	if _, err := NewMetrics(reg); err == nil {
		t.Error("registered twice: got no error")
	}
}

func TestOptions(t *testing.T) {
	ok := Options{Dir: t.TempDir()}
	for name, change := range map[string]func(o *Options){
		"relative":   func(o *Options) { o.Dir = "images" },
		"watermarks": func(o *Options) { o.GCHigh, o.GCLow = 50, 60 },
		"over":       func(o *Options) { o.GCHigh = 101 },
		"mirror":     func(o *Options) { o.Mirrors = []string{"x"} },
		"no CA":      func(o *Options) { o.CAFile = "/nonexistent" },
		"empty CA":   func(o *Options) { o.CAFile = os.DevNull },
		"no folder":  func(o *Options) { o.Dir += "/absent" },
		"a URL":      func(o *Options) { o.PlainHTTP = []string{"http://registry:5000"} },
		"a path":     func(o *Options) { o.PlainHTTP = []string{"registry:5000/"} },
		"no name":    func(o *Options) { o.PlainHTTP = []string{""} },
		"a half URL": func(o *Options) { o.Mirrors = []string{"docker.io=http:/x"} },
		"negative":   func(o *Options) { o.MaxBytes = -1 },
	} {
		o := ok
		change(&o)
		if s, err := New(o); err == nil {
			s.Close()
			t.Errorf("%s: got a store, want an error", name)
		}
	}
}

// The node's docker config is read again for every pull.
func TestDockerConfigIsReread(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.DockerConfig = filepath.Join(t.TempDir(), "config.json") })
	w.reg.push(t, "demo:1", newImage(t, "amd64", "one"))
	w.reg.setPrivate("demo", "node:word")
	w.wantFailed(w.request("demo:1", "a"), "no credentials")
	writeFile(t, w.o.DockerConfig, secretFor(w.reg.host(), "node:word").Content)
	w.want(w.request("demo:1", "a"))
	writeFile(t, w.o.DockerConfig, []byte("{"))
	w.wantFailed(w.request("demo:2", "a"), "--image-docker-config")
	// Images that need no credentials are still available.
	w.reg.push(t, "public:1", newImage(t, "amd64", "two"))
	w.want(w.request("public:1", "a"))
	if err := os.Remove(w.o.DockerConfig); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	w.wantFailed(w.request("demo:1", "a"), "no credentials")
}
