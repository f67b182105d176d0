// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/test/api/apienv"
)

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// The API server accepts the examples of the pages that describe rules. An example is the
// spec of a Bottle, or a part of its rules with the indentation that it has there.
func TestExamplesApply(t *testing.T) {
	c := client.WithFieldValidation(apienv.Client(t, apienv.Start(t)), "Strict")
	ns := apienv.Namespace(t, c)
	examples := 0
	for _, page := range []string{"docs/egress.md", "README.md"} {
		text, err := os.ReadFile(filepath.Join(apienv.Root(), page))
		must(t, err)
		for i, block := range yamlBlock.FindAllStringSubmatch(string(text), -1) {
			spec := block[1]
			switch {
			case strings.HasPrefix(spec, "      - "):
				spec = "spec:\n  egress:\n    rules:\n" + spec
			case !strings.HasPrefix(spec, "spec:\n"):
				continue
			}
			examples++
			name := fmt.Sprintf("example-%d", examples)
			objects, err := apienv.ParseManifests([]byte("apiVersion: botbottle.dev/v1alpha1\nkind: Bottle\nmetadata: {name: " + name + "}\n" +
				strings.Replace(spec, "spec:\n", "spec:\n  slug: "+name+"\n", 1)))
			must(t, err)
			objects[0].SetNamespace(ns)
			if err := c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(objects[0]), client.FieldOwner("kubectl")); err != nil {
				t.Errorf("%s, example %d: %v\n%s", page, i+1, err, block[1])
			}
		}
	}
	if examples < 5 {
		t.Errorf("got %d examples, want at least 5", examples)
	}
}
