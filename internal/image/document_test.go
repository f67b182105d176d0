// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// A registry must not be able to use up a node's memory with a few megabytes
// that list a million entries.
func TestDocumentsTakeLittleMemory(t *testing.T) {
	many := func(element string) string {
		return "[" + strings.Repeat(element+",", maxManifestBytes/(len(element)+1)-32) + element + "]"
	}
	digest := `"sha256:` + strings.Repeat("a", 64) + `"`
	for name, raw := range map[string]string{
		"manifests":              `{"manifests":` + many("{}") + `}`,
		"layers":                 `{"config":{},"layers":` + many("{}") + `}`,
		"unknown platform field": `{"manifests":[{"platform":{"os.features":` + many(`""`) + `}}]}`,
		"annotations":            `{"config":{"annotations":{` + strings.TrimSuffix(strings.Repeat(`"":"",`, maxManifestBytes/6-64), ",") + `}},"layers":[]}`,
		"a list for an object":   `{"config":` + many("{}") + `}`,
		"digests":                `{"manifests":` + many(`{"digest":`+digest+`}`) + `}`,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		doc, err := parseManifest([]byte(raw))
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(8*maxManifestBytes); got > most {
			t.Errorf("%s: got %d bytes allocated for %d, want %d at most", name, got, len(raw), most)
		}
		if len(doc.Manifests) > maxDescriptors || len(doc.Layers) > maxDescriptors {
			t.Errorf("%s: got %d manifests and %d layers (%v), want %d at most", name, len(doc.Manifests), len(doc.Layers), err, maxDescriptors)
		}
	}
	_, err := parseManifest([]byte(`{"manifests":` + many("{}") + `}`))
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxDescriptors)) {
		t.Errorf("too many: got %v, want an error with the bound", err)
	}
}

func TestParseManifest(t *testing.T) {
	for raw, want := range map[string]string{
		`{"schemaVersion":1,"manifests":[]}`: "schema 1",
		`{}`:                                 "neither",
		`{"manifests":null,"layers":null}`:   "neither",
		`{"manifests":[],"layers":[]}`:       "both",
		`{"manifests":{}}`:                   "not JSON",
		`{"manifests":[1]}`:                  "not JSON",
		`[`:                                  "not JSON",
	} {
		if _, err := parseManifest([]byte(raw)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", raw, err, want)
		}
	}
}
