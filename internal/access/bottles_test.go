// SPDX-License-Identifier: Apache-2.0

package access

import (
	"errors"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/state"
)

// TestNodeBottles: what the server knows of a Bottle comes from its conditions and from
// the agent's record.
func TestNodeBottles(t *testing.T) {
	t.Parallel()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	b := &v1alpha1.Bottle{ObjectMeta: metav1.ObjectMeta{Namespace: demo.Namespace, Name: demo.Name, UID: "1a2b3c4d-0000-4000-8000-000000000001"}, Spec: v1alpha1.BottleSpec{Slug: demo.Slug}}
	b.Status.NodeName = ptr.To(node)
	b.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionFinished, Status: metav1.ConditionTrue}}
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	folder, err := dir.Folder(demo.UID)
	if err != nil {
		t.Fatal(err)
	}
	bottles := NodeBottles{Client: fake.NewClientBuilder().WithScheme(scheme).WithObjects(b).Build(), State: dir, Node: node, Cluster: demo.Cluster}
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		name   string
		record *state.Record
		want   Bottle
	}{
		{"no record yet", nil, Bottle{Owner: demo, Finished: true}},
		{"files are open", &state.Record{Workload: state.Workload{Out: "/out", FilesSince: since}}, Bottle{Owner: demo, Finished: true, FilesOpen: true, Supervised: true}},
		{"files are closed", &state.Record{Workload: state.Workload{Out: "/out", Stdin: "Open"}}, Bottle{Owner: demo, Finished: true, Supervised: true, Stdin: true}},
		{"terminal", &state.Record{Workload: state.Workload{Stdin: "Terminal"}}, Bottle{Owner: demo, Finished: true, Stdin: true, Terminal: true}},
	} {
		if tt.record != nil {
			if err := errors.Join(folder.Ensure(demo), folder.WriteRecord(tt.record)); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := bottles.Find(t.Context(), demo.Namespace, demo.Name, demo.UID); err != nil || got != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, got, err, tt.want)
		}
	}
	bottles.Node = "node-2"
	if got, err := bottles.Find(t.Context(), demo.Namespace, demo.Name, demo.UID); !errors.Is(err, host.ErrNotFound) {
		t.Errorf("on another node: got %+v, %v, want it not found", got, err)
	}
}
