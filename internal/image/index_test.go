// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLoadIndexReportsProblem(t *testing.T) {
	whole, err := json.Marshal(newIndex())
	if err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]string{
		string(whole):                  "",
		"":                             "unreadable: EOF",
		string(whole[:20]):             "unreadable: unexpected EOF",
		`{}`:                           "incomplete",
		`{"key":"","references":null}`: "incomplete",
		strings.Replace(string(whole), "{}", `{"x":null}`, 1): "incomplete",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, indexFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		x, err := loadIndex(dir)
		switch {
		case x == nil || len(x.Key) != keyBytes:
			t.Errorf("%q: got %+v, want a usable index", content, x)
		case want == "" && err != nil:
			t.Errorf("%q: got %v, want nil", content, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "%!")):
			t.Errorf("%q: got %v, want %q in it", content, err, want)
		}
	}
}

// A registry may make a new index of the same image for every pull.
func TestIndexIsBounded(t *testing.T) {
	x := newIndex()
	now := time.Now()
	for _, digest := range []string{"sha256:a", "sha256:b"} {
		x.recordServed(digest, "r/demo", now)
		x.recordTop(digest+"-top", digest)
	}
	first, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	x.recordTop("", "sha256:a") // for an image without a top
	for i := range 10 * maxTops {
		x.recordServed("sha256:a", fmt.Sprint("r/", i), now)
		x.recordTop(fmt.Sprint("top-", i), "sha256:a")
	}
	for top, want := range map[string]string{
		"": "", "top-0": "", "sha256:b-top": "sha256:b", fmt.Sprint("top-", 10*maxTops-1): "sha256:a", fmt.Sprint("top-", 9*maxTops): "sha256:a",
	} {
		if got := x.imageOf(top); got != want {
			t.Errorf("%q: got %q, want %q", top, got, want)
		}
	}
	raw, err := json.Marshal(x)
	if err != nil || len(raw)-len(first) > 2*maxTops*20 {
		t.Errorf("got %d bytes and %v, want it bounded to %d of each", len(raw), err, maxTops)
	}
	// A top that now resolves to another image no longer resolves to the first.
	x.recordTop("sha256:b-top", "sha256:a")
	x.forget("sha256:a")
	if got := x.imageOf("sha256:b-top"); got != "" {
		t.Errorf("got %q, want it forgotten with the image that it resolved to last", got)
	}
}
