// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/api/v1alpha1"
)

const (
	// retryPause is the default of Invocation.RetryPause.
	retryPause = time.Second
	// maxOutage is how long the API server may fail to answer in follow.
	maxOutage = 5 * time.Minute
)

var (
	scheme         = newScheme()
	codecs         = serializer.NewCodecFactory(scheme)
	parameterCodec = runtime.NewParameterCodec(scheme)
)

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(v1alpha1.AddToScheme(s))
	utilruntime.Must(subresources.AddToScheme(s))
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}

// client speaks with the API server about the Bottles of one namespace.
type client struct {
	namespace string
	config    *rest.Config   // of the subresources
	bottles   rest.Interface // botbottle.dev
	sub       rest.Interface // subresources.botbottle.dev
	pause     func() <-chan time.Time
}

// client returns a client for the namespace that the command line and the kubeconfig
// choose.
func (p *plugin) client() (*client, error) {
	namespace, _, err := p.factory.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, err
	}
	config, err := p.factory.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	c := &client{namespace: namespace, pause: func() <-chan time.Time { return time.After(p.pause) }}
	if c.bottles, _, err = restClient(config, v1alpha1.GroupVersion); err != nil {
		return nil, err
	}
	c.sub, c.config, err = restClient(config, subresources.GroupVersion)
	return c, err
}

func restClient(config *rest.Config, gv schema.GroupVersion) (rest.Interface, *rest.Config, error) {
	config = rest.CopyConfig(config)
	config.APIPath, config.GroupVersion = "/apis", &gv
	config.NegotiatedSerializer = codecs.WithoutConversion()
	config.ContentType = runtime.ContentTypeJSON
	c, err := rest.RESTClientFor(config)
	return c, config, err
}

func (c *client) get(ctx context.Context, name string) (*v1alpha1.Bottle, error) {
	b := &v1alpha1.Bottle{}
	return b, c.bottles.Get().Namespace(c.namespace).Resource("bottles").Name(name).Do(ctx).Into(b)
}

func (c *client) create(ctx context.Context, b *v1alpha1.Bottle) (*v1alpha1.Bottle, error) {
	created := &v1alpha1.Bottle{}
	return created, c.bottles.Post().Namespace(c.namespace).Resource("bottles").
		VersionedParams(&metav1.CreateOptions{FieldManager: "kubectl-bottle"}, metav1.ParameterCodec).Body(b).Do(ctx).Into(created)
}

// remove deletes the Bottle, if it is still the one with this UID.
func (c *client) remove(ctx context.Context, name string, uid types.UID) error {
	err := c.bottles.Delete().Namespace(c.namespace).Resource("bottles").Name(name).
		Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}).Do(ctx).Error()
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// patch applies a JSON merge patch.
func (c *client) patch(ctx context.Context, name string, patch map[string]any) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	return c.bottles.Patch(types.MergePatchType).Namespace(c.namespace).Resource("bottles").Name(name).
		VersionedParams(&metav1.PatchOptions{FieldManager: "kubectl-bottle"}, metav1.ParameterCodec).Body(body).Do(ctx).Error()
}

// setDesiredState stops or starts the Bottle.
func (c *client) setDesiredState(ctx context.Context, name string, state v1alpha1.DesiredState) error {
	return c.patch(ctx, name, map[string]any{"spec": map[string]any{"desiredState": state}})
}

// errDeleted means that the Bottle no longer exists.
var errDeleted = errors.New("the Bottle was deleted")

// follow calls seen with the state of a Bottle that exists, now and whenever it changes,
// until seen returns true or an error. It outlasts short outages of the API server. It
// returns errDeleted if the Bottle is deleted.
func (c *client) follow(ctx context.Context, bottle *v1alpha1.Bottle, seen func(*v1alpha1.Bottle) (bool, error)) error {
	answered := time.Now()
	for {
		b, err := c.get(ctx, bottle.Name)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case apierrors.IsNotFound(err) || err == nil && b.UID != bottle.UID:
			return errDeleted
		case err == nil:
			answered = time.Now()
			if done, err := seen(b); done || err != nil {
				return err
			}
			done, err := c.watch(ctx, b, seen)
			if done || err != nil {
				return err
			}
		case !transient(err) || time.Since(answered) > maxOutage:
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-c.pause():
		}
	}
}

// watch calls seen with the changes of the Bottle until seen is done or the watch ends,
// which it does now and then.
func (c *client) watch(ctx context.Context, b *v1alpha1.Bottle, seen func(*v1alpha1.Bottle) (bool, error)) (bool, error) {
	w, err := c.bottles.Get().Namespace(c.namespace).Resource("bottles").VersionedParams(&metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, b.Name).String(), ResourceVersion: b.ResourceVersion, Watch: true,
	}, metav1.ParameterCodec).Watch(ctx)
	if err != nil {
		return false, nil // follow asks again, which tells what is wrong
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		changed, ok := event.Object.(*v1alpha1.Bottle)
		if !ok {
			return false, nil
		}
		if event.Type == watch.Deleted || changed.UID != b.UID {
			return false, errDeleted
		}
		if done, err := seen(changed); done || err != nil {
			return done, err
		}
	}
	return false, nil
}

// transient reports whether the same request may succeed later.
func transient(err error) bool {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return true // no answer of the API server
	}
	code := status.Status().Code
	return code >= 500 || code == 429
}

// act posts to a subresource of the Bottle and reads the answer into result.
func (c *client) act(ctx context.Context, name, subresource string, result runtime.Object) error {
	body := &subresources.BottleAction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: c.namespace}}
	var request runtime.Object = body
	if subresource == "proof" {
		request = &subresources.BottleProof{ObjectMeta: body.ObjectMeta}
	}
	return c.sub.Post().Namespace(c.namespace).Resource("bottles").Name(name).SubResource(subresource).Body(request).Do(ctx).Into(result)
}

// log opens a log of the Bottle. A log that is followed has no other limit in time than
// its context.
func (c *client) log(name string, o *subresources.BottleLogOptions) *rest.Request {
	return c.sub.Get().Namespace(c.namespace).Resource("bottles").Name(name).SubResource("log").VersionedParams(o, parameterCodec)
}

// sentence describes the Bottle in messages, as kubectl does.
func sentence(name, what string) string {
	return fmt.Sprintf("bottle.%s/%s %s", v1alpha1.GroupVersion.Group, name, what)
}
