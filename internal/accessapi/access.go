// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/api/v1alpha1"
)

// access is what the subresources share.
type access struct {
	find      *finder
	annotate  *annotator
	files     *files
	hop       *hop
	sessions  *sessions
	authorize authorizer.Authorizer
}

// connecter is a subresource whose requests go on to an agent. It serves them
// directly, without the library's reading and writing of objects.
type connecter struct {
	*access
	verb    string
	methods []string
	// object returns an empty one of the kind that discovery and OpenAPI name.
	object func() runtime.Object
	// serve answers a request, or returns an error for the user.
	serve func(c *connection) error
}

// connection is one request to a connecter.
type connection struct {
	w         http.ResponseWriter
	r         *http.Request
	namespace string
	name      string
	responder rest.Responder
}

var _ rest.Connecter = &connecter{}

func (c *connecter) New() runtime.Object { return c.object() }

// Destroy does nothing: there is nothing to clean up.
func (c *connecter) Destroy() {}

func (c *connecter) ConnectMethods() []string { return c.methods }

// NewConnectOptions returns nothing: the handlers read the query themselves, because
// the library would not tell users which parameter is wrong.
func (c *connecter) NewConnectOptions() (options runtime.Object, subpath bool, subpathKey string) {
	return nil, false, ""
}

func (c *connecter) Connect(ctx context.Context, name string, _ runtime.Object, responder rest.Responder) (http.Handler, error) {
	if c.verb == verbExec || c.verb == verbAttach {
		if err := c.requireCreate(ctx); err != nil {
			return nil, err
		}
	}
	namespace := request.NamespaceValue(ctx)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := c.serve(&connection{w: w, r: r, namespace: namespace, name: name, responder: responder}); err != nil {
			responder.Error(err)
		}
	}), nil
}

// requireCreate authorises the verb create, whichever verb the HTTP method stands
// for: a WebSocket starts with a GET, and whoever may only read must not run
// commands.
func (c *connecter) requireCreate(ctx context.Context) error {
	asked, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if asked.GetVerb() == "create" {
		return nil
	}
	attributes := authorizer.AttributesRecord{
		User: asked.GetUser(), Verb: "create", Namespace: asked.GetNamespace(), Name: asked.GetName(), ResourceRequest: true,
		APIGroup: asked.GetAPIGroup(), APIVersion: asked.GetAPIVersion(), Resource: asked.GetResource(), Subresource: asked.GetSubresource(),
	}
	decision, why, err := c.authorize.Authorize(ctx, attributes)
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("authorise the verb create: %w", err))
	}
	if why == "" {
		why = fmt.Sprintf("user %q needs the verb create too, whichever HTTP method is used", attributes.User.GetName())
	}
	return apierrors.NewForbidden(subresources.GroupVersion.WithResource(attributes.Resource+"/"+attributes.Subresource).GroupResource(), attributes.Name, errors.New(why))
}

// bottle reads the Bottle that a request names.
func (a *access) bottle(c *connection) (*v1alpha1.Bottle, error) {
	return a.find.bottle(c.r.Context(), c.namespace, c.name)
}

// parsed returns the options of a request, or an error with the fields that are
// wrong.
func parsed[O options](c *connection, kind string, parse func(url.Values) (O, field.ErrorList)) (O, error) {
	o, errs := parse(c.r.URL.Query())
	if len(errs) > 0 {
		return o, apierrors.NewInvalid(subresources.GroupVersion.WithKind(kind).GroupKind(), c.name, errs)
	}
	return o, nil
}
