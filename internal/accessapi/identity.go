// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
)

// kube-apiserver publishes here how it identifies itself and its users.
const frontProxy = "extension-apiserver-authentication"

// decisionTTL bounds how long a decision of kube-apiserver about rights is reused.
const decisionTTL = 10 * time.Second

// identity tells who a request is from and what they may do. It accepts requests
// from kube-apiserver alone, so that each of them is in its audit log.
type identity struct {
	headers       *headerrequest.RequestHeaderAuthRequestController
	ca            *dynamiccertificates.ConfigMapCAController
	authenticator authenticator.Request
	authorizer    authorizer.Authorizer
}

func newIdentity(c kubernetes.Interface) (*identity, error) {
	ca, err := dynamiccertificates.NewDynamicCAFromConfigMapController("front-proxy", metav1.NamespaceSystem, frontProxy, "requestheader-client-ca-file", c)
	if err != nil {
		return nil, fmt.Errorf("authentication: %w", err)
	}
	h := headerrequest.NewRequestHeaderAuthRequestController(frontProxy, metav1.NamespaceSystem, c,
		"requestheader-username-headers", "requestheader-uid-headers", "requestheader-group-headers",
		"requestheader-extra-headers-prefix", "requestheader-allowed-names")
	delegated, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: c.AuthorizationV1(),
		AllowCacheTTL:             decisionTTL,
		DenyCacheTTL:              decisionTTL,
		WebhookRetryBackoff:       &wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 5},
	}.New()
	if err != nil {
		return nil, fmt.Errorf("authorization: %w", err)
	}
	return &identity{
		headers: h, ca: ca,
		authenticator: headerrequest.NewDynamicVerifyOptionsSecure(ca.VerifyOptions,
			headerrequest.StringSliceProviderFunc(h.AllowedClientNames),
			headerrequest.StringSliceProviderFunc(h.UsernameHeaders),
			headerrequest.StringSliceProviderFunc(h.UIDHeaders),
			headerrequest.StringSliceProviderFunc(h.GroupHeaders),
			headerrequest.StringSliceProviderFunc(h.ExtraHeaderPrefixes)),
		authorizer: delegated,
	}, nil
}

// run follows what kube-apiserver publishes about its headers, until ctx ends; the
// server follows the certificates itself. Until both are known, each request is
// answered with 401.
func (i *identity) run(ctx context.Context) {
	if err := i.headers.RunOnce(ctx); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "Cannot read yet how kube-apiserver identifies its users", "configMap", frontProxy, "namespace", metav1.NamespaceSystem)
	}
	go i.headers.Run(ctx, 1)
}
