// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	subresourcesv1alpha1 "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/internal/envwatch"
	"botbottle.dev/bottle-operator/test/builders"
	"botbottle.dev/bottle-operator/test/require"
	"botbottle.dev/bottle-operator/test/story"
)

const (
	node     = "node-1"
	silence  = 5*time.Minute + 20*time.Second
	patience = 90 * time.Second
)

// agent returns a client of bottleenvironments with a token like that of the node's
// agent.
func agent(t *testing.T, c *story.Cluster) rest.Interface {
	t.Helper()
	n := &corev1.Node{}
	if err := c.Get(t.Context(), client.ObjectKey{Name: node}, n); err != nil {
		t.Fatal(err)
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: ptr.To[int64](3600),
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.UID},
	}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: c.SystemNamespace(t), Name: "bottle-agent"}}
	if err := c.SubResource("token").Create(t.Context(), account, request); err != nil {
		t.Fatal(err)
	}
	full, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cfg := rest.AnonymousClientConfig(full)
	cfg.BearerToken = request.Status.Token
	h, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	out, err := envwatch.NewClient(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A watch of environments in which nothing changes for five minutes still tells what
// changes then.
func TestLongSilentEnvironmentWatch(t *testing.T) {
	require.Long(t)
	t.Parallel()
	c := story.Connect(t, patience)
	ns := c.Namespace(t)
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "s"}, StringData: map[string]string{"token": "one"}}
	if err := c.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	b := builders.MakeBottle("silent").Namespace(ns).Slug("silent").EnvFromSecret("TOKEN", "s", "token").Pin(node).Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)
	ctx, cancel := context.WithTimeout(t.Context(), silence+patience)
	defer cancel()
	w, err := agent(t, c).Get().Resource("bottleenvironments").
		VersionedParams(&metav1.ListOptions{Watch: true, AllowWatchBookmarks: true}, metav1.ParameterCodec).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	changed := false
	over := time.After(silence)
	for {
		select {
		case <-over:
			changed = true
			if err := c.Patch(t.Context(), s, client.RawPatch("application/merge-patch+json", []byte(`{"stringData":{"token":"two"}}`))); err != nil {
				t.Fatal(err)
			}
		case event, ok := <-w.ResultChan():
			if !ok || event.Type == watch.Error {
				t.Fatalf("the watch ended (%v) with the Secret changed: %v", event.Object, changed)
			}
			env := event.Object.(*subresourcesv1alpha1.BottleEnvironment)
			if env.Namespace == ns && len(env.Objects) == 1 && string(env.Objects[0].Data["token"]) == "two" {
				return
			}
		}
	}
}
