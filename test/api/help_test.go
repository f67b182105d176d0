// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/test/api/apienv"
)

func codecs() runtime.NegotiatedSerializer {
	return serializer.NewCodecFactory(apienv.Scheme()).WithoutConversion()
}

// manifestOf returns b as a user would write it.
func manifestOf(t *testing.T, b *v1alpha1.Bottle) *unstructured.Unstructured {
	t.Helper()
	data, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal(data, &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

// kustomize renders a folder of this module as kubectl does.
func kustomize(t *testing.T, folder string) []byte {
	t.Helper()
	return kustomizeFolder(t, filepath.Join(apienv.Root(), folder))
}

// kustomizeFolder renders any folder.
func kustomizeFolder(t *testing.T, folder string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(apienv.Assets(t), "kubectl"), "kustomize", folder)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kubectl kustomize %s: %v", folder, err)
	}
	return out
}
