// SPDX-License-Identifier: Apache-2.0

package story

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// PushImage pushes an image, or an index with its images, as REPOSITORY:TAG,
// and returns its digest.
func (c *Cluster) PushImage(t testing.TB, node, repositoryTag string, img mutate.Appendable) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := layout.Write(dir, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: img})); err != nil {
		t.Fatal(err)
	}
	return c.pushLayout(t, node, repositoryTag, dir)
}

// PushManifest pushes a manifest without checking it, together with these blobs, and
// returns its digest. The manifest may name other blobs, too.
func (c *Cluster) PushManifest(t testing.TB, node, repositoryTag string, m *v1.Manifest, blobs ...[]byte) string {
	t.Helper()
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	top := v1.Descriptor{MediaType: m.MediaType, Size: int64(len(raw))}
	for _, content := range append(blobs, raw) {
		if top.Digest, _, err = v1.SHA256(bytes.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		if err := l.WriteBlob(top.Digest, io.NopCloser(bytes.NewReader(content))); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.AppendDescriptor(top); err != nil {
		t.Fatal(err)
	}
	return c.pushLayout(t, node, repositoryTag, dir)
}

func (c *Cluster) pushLayout(t testing.TB, node, repositoryTag, dir string) string {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := errors.Join(w.AddFS(os.DirFS(dir)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return c.pushArchive(t, node, repositoryTag, &archive)
}
