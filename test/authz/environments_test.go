// SPDX-License-Identifier: Apache-2.0

package authz_test

import (
	"context"
	"net/http"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	subresourcesv1alpha1 "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/internal/envwatch"
	"botbottle.dev/bottle-operator/test/builders"
)

// environments returns a client of bottleenvironments that signs in with a token.
func environments(t *testing.T, token string) rest.Interface {
	t.Helper()
	cfg := tokenConfig(t, token)
	h, err := rest.HTTPClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := envwatch.NewClient(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tokenOfAgent returns a token like that of the agent of a node, or one that is bound
// to no Node.
func tokenOfAgent(t *testing.T, node string) string {
	t.Helper()
	return accountToken(t, connect(t).SystemNamespace(t), agentAccount, node)
}

func listEnvironments(t *testing.T, c rest.Interface, namespace string) (*subresourcesv1alpha1.BottleEnvironmentList, error) {
	t.Helper()
	list := &subresourcesv1alpha1.BottleEnvironmentList{}
	r := c.Get().Resource("bottleenvironments")
	if namespace != "" {
		r = r.Namespace(namespace)
	}
	return list, r.Do(t.Context()).Into(list)
}

// watchEnvironments returns what a watch tells of a namespace until the initial events
// are complete.
func watchEnvironments(t *testing.T, c rest.Interface, namespace string) ([]subresourcesv1alpha1.BottleEnvironment, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	w, err := c.Get().Resource("bottleenvironments").
		VersionedParams(&metav1.ListOptions{Watch: true, AllowWatchBookmarks: true}, metav1.ParameterCodec).Watch(ctx)
	if err != nil {
		return nil, err
	}
	defer w.Stop()
	var got []subresourcesv1alpha1.BottleEnvironment
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			return got, apierrors.FromObject(event.Object)
		}
		env := event.Object.(*subresourcesv1alpha1.BottleEnvironment)
		if event.Type == watch.Bookmark && env.Annotations[metav1.InitialEventsAnnotationKey] == "true" {
			return got, nil
		}
		if env.Namespace == namespace {
			got = append(got, *env)
		}
	}
	t.Fatalf("the watch ended before its initial events were complete")
	return nil, nil
}

// An agent reads no Secret and no ConfigMap, on any path. It learns what the Bottles of
// its own node name, and of those objects only the keys that they name.
func TestAgentsAndSecrets(t *testing.T) {
	c := connect(t)
	ns := c.Namespace(t)
	data := map[string]string{"token": "planted-5e1f", "other": "not-named-5e1f"}
	create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "named"}, StringData: data})
	create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "unnamed"}, StringData: data})
	create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "named"}, Data: data})
	b := builders.MakeBottle("reads").Namespace(ns).Slug("reads").EnvFromSecret("TOKEN", "named", "token").
		EnvFromConfigMap("CONFIG", "named", "token").Pin(node).Obj()
	c.Apply(t, b)
	c.WaitRunning(t, b)

	token := tokenOfAgent(t, node)
	t.Run("directly", func(t *testing.T) {
		k, err := kubernetes.NewForConfig(tokenConfig(t, token))
		if err != nil {
			t.Fatal(err)
		}
		ctx, byName := t.Context(), metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", "named").String()}
		discard := func(_ any, err error) error { return err }
		for path, err := range map[string]error{
			"get a Secret":                  discard(k.CoreV1().Secrets(ns).Get(ctx, "named", metav1.GetOptions{})),
			"list Secrets":                  discard(k.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})),
			"list Secrets by name":          discard(k.CoreV1().Secrets(ns).List(ctx, byName)),
			"list all Secrets":              discard(k.CoreV1().Secrets("").List(ctx, metav1.ListOptions{})),
			"watch Secrets":                 discard(k.CoreV1().Secrets(ns).Watch(ctx, metav1.ListOptions{})),
			"watch Secrets by name":         discard(k.CoreV1().Secrets(ns).Watch(ctx, byName)),
			"watch all Secrets":             discard(k.CoreV1().Secrets("").Watch(ctx, metav1.ListOptions{})),
			"the old path of a watch":       discard(k.CoreV1().RESTClient().Get().AbsPath("/api/v1/watch/namespaces", ns, "secrets/named").Stream(ctx)),
			"the operator's own Secrets":    discard(k.CoreV1().Secrets(c.SystemNamespace(t)).Get(ctx, "bottle-access-ca", metav1.GetOptions{})),
			"the metadata of Secrets":       k.CoreV1().RESTClient().Get().Namespace(ns).Resource("secrets").SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").Do(ctx).Error(),
			"write a Secret":                discard(k.CoreV1().Secrets(ns).Patch(ctx, "named", "application/merge-patch+json", []byte(`{}`), metav1.PatchOptions{})),
			"get a ConfigMap":               discard(k.CoreV1().ConfigMaps(ns).Get(ctx, "named", metav1.GetOptions{})),
			"list ConfigMaps":               discard(k.CoreV1().ConfigMaps(ns).List(ctx, metav1.ListOptions{})),
			"list all ConfigMaps":           discard(k.CoreV1().ConfigMaps("").List(ctx, metav1.ListOptions{})),
			"watch ConfigMaps by name":      discard(k.CoreV1().ConfigMaps(ns).Watch(ctx, byName)),
			"watch all ConfigMaps":          discard(k.CoreV1().ConfigMaps("").Watch(ctx, metav1.ListOptions{})),
			"get one Bottle's environment":  environments(t, token).Get().Namespace(ns).Resource("bottleenvironments").Name("reads").Do(ctx).Error(),
			"the manager's proxied address": k.CoreV1().RESTClient().Get().AbsPath("/api/v1/namespaces", c.SystemNamespace(t), "services/https:bottle-manager-access:443/proxy/").Do(ctx).Error(),
		} {
			if !apierrors.IsForbidden(err) {
				t.Errorf("%s: got %v, want it forbidden", path, err)
			}
		}
	})
	t.Run("of its own node", func(t *testing.T) {
		for how, read := range map[string]func() ([]subresourcesv1alpha1.BottleEnvironment, error){
			"list": func() ([]subresourcesv1alpha1.BottleEnvironment, error) {
				list, err := listEnvironments(t, environments(t, token), ns)
				return list.Items, err
			},
			"watch": func() ([]subresourcesv1alpha1.BottleEnvironment, error) {
				return watchEnvironments(t, environments(t, token), ns)
			},
		} {
			got, err := read()
			if err != nil || len(got) != 1 || got[0].BottleUID != b.UID || len(got[0].Objects) != 2 {
				t.Errorf("%s: got %d environments and %v, want that of the Bottle, with two objects", how, len(got), err)
				continue
			}
			for _, o := range got[0].Objects {
				if o.State != subresourcesv1alpha1.ObjectPresent || len(o.Data) != 1 || string(o.Data["token"]) != data["token"] {
					t.Errorf("%s: %s %s: got state %s and %d keys, want the one that the Bottle names", how, o.Kind, o.Name, o.State, len(o.Data))
				}
			}
		}
	})
	t.Run("of another node", func(t *testing.T) {
		other := environments(t, tokenOfAgent(t, otherNode(t)))
		for _, namespace := range []string{"", ns} {
			list, err := listEnvironments(t, other, namespace)
			if err != nil || len(list.Items) != 0 {
				t.Errorf("list in %q: got %d environments and %v, want none", namespace, len(list.Items), err)
			}
		}
		if got, err := watchEnvironments(t, other, ns); err != nil || len(got) != 0 {
			t.Errorf("watch: got %d environments and %v, want none", len(got), err)
		}
	})
	t.Run("with a token that is bound to no Node", func(t *testing.T) {
		unbound := environments(t, tokenOfAgent(t, ""))
		_, listErr := listEnvironments(t, unbound, "")
		wantRefused(t, listErr, "not bound to a Node", "--bound-object-kind Node")
		_, watchErr := watchEnvironments(t, unbound, ns)
		wantRefused(t, watchErr, "not bound to a Node")
	})
	t.Run("forged headers", func(t *testing.T) {
		// Only kube-apiserver may say who a caller is. It passes on no headers of
		// callers that look as if it had written them.
		cfg := tokenConfig(t, tokenOfAgent(t, otherNode(t)))
		cfg.WrapTransport = func(next http.RoundTripper) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				r = r.Clone(r.Context())
				r.Header.Set("X-Remote-User", "system:serviceaccount:bottle-system:bottle-agent")
				r.Header.Set("X-Remote-Extra-Authentication.kubernetes.io%2fnode-Name", node)
				r.Header.Set("X-Remote-Extra-authentication.kubernetes.io/node-name", node)
				return next.RoundTrip(r)
			})
		}
		h, err := rest.HTTPClientFor(cfg)
		if err != nil {
			t.Fatal(err)
		}
		forger, err := envwatch.NewClient(cfg, h)
		if err != nil {
			t.Fatal(err)
		}
		if list, err := listEnvironments(t, forger, ""); err == nil && len(list.Items) != 0 {
			t.Errorf("got %d environments, want none", len(list.Items))
		}
	})
	t.Run("a tenant", func(t *testing.T) {
		_, err := listEnvironments(t, environments(t, userToken(t, ns, "tenant-env")), ns)
		wantRefused(t, err)
	})
	t.Run("a Secret that changes", func(t *testing.T) { wantSecretChange(t, ns, token) })
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// userToken returns a token of a ServiceAccount that may do anything to Bottles of its
// namespace.
func userToken(t *testing.T, namespace, name string) string {
	t.Helper()
	user(t, namespace, name, rbacRole("bottle-editor"), rbacRole("admin"))
	return accountToken(t, namespace, name, "")
}

// wantSecretChange changes a Secret, and waits until the watch of an agent tells. It
// logs how long that takes.
func wantSecretChange(t *testing.T, namespace, token string) {
	c := connect(t)
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	w, err := environments(t, token).Get().Resource("bottleenvironments").
		VersionedParams(&metav1.ListOptions{Watch: true, AllowWatchBookmarks: true}, metav1.ParameterCodec).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "named"}}
	var changed time.Time
	for event := range w.ResultChan() {
		if event.Type == watch.Bookmark && changed.IsZero() {
			changed = time.Now()
			if err := c.Patch(t.Context(), s, merge(`{"stringData":{"token":"changed-77ab"}}`)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if told(event.Object, namespace, "changed-77ab") {
			t.Logf("the agent was told of the change after %v", time.Since(changed).Round(time.Millisecond))
			return
		}
	}
	t.Errorf("the watch ended without the change")
}

// told says whether an event has a value in an environment of the namespace.
func told(object runtime.Object, namespace, value string) bool {
	env, ok := object.(*subresourcesv1alpha1.BottleEnvironment)
	return ok && env.Namespace == namespace && slices.ContainsFunc(env.Objects, func(o subresourcesv1alpha1.EnvironmentObject) bool {
		return string(o.Data["token"]) == value
	})
}

func rbacRole(name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}
}
