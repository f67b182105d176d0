// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"

	"botbottle.dev/bottle-operator/internal/agenttoken"
)

const (
	// agentAccount is the name of the agents' ServiceAccount. The policies in
	// config/policy apply to accounts with this name, and would not restrict an
	// agent with another one.
	agentAccount = "bottle-agent"
	// nodeNameKey is the extra attribute of a user whose token is bound to a Node.
	nodeNameKey = "authentication.kubernetes.io/node-name"
)

// identityError reports credentials that are not those of this node's agent.
type identityError struct {
	problem string // a fixed phrase, or one with the node's name
	fix     string
}

func (e *identityError) Error() string { return e.problem + "; " + e.fix }

// identity asks the API server which user it takes the agent for. It returns the
// namespace of the agent's ServiceAccount. The error is an *identityError if the agent
// needs other credentials.
func (o *AgentOptions) identity(ctx context.Context, cfg *rest.Config, bounded *http.Client) (namespace string, err error) {
	c, err := authenticationclient.NewForConfigAndClient(cfg, bounded)
	if err != nil {
		return "", permanentError{fmt.Errorf("--kubeconfig: %w", err)}
	}
	review, err := c.SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("identity of the agent: %w", o.explain(cfg, err))
	}
	return o.checkUser(review.Status.UserInfo)
}

// checkUser checks that a user is the agent of this node.
func (o *AgentOptions) checkUser(user authenticationv1.UserInfo) (namespace string, err error) {
	account, ok := strings.CutPrefix(user.Username, "system:serviceaccount:")
	namespace, name, _ := strings.Cut(account, ":")
	if !ok || name != agentAccount {
		return "", &identityError{
			"it does not know the agent as the ServiceAccount " + agentAccount,
			"make a token with: " + agenttoken.Command("NAMESPACE", agentAccount, o.NodeName),
		}
	}
	if nodes := user.Extra[nodeNameKey]; len(nodes) != 1 || nodes[0] != o.NodeName {
		return "", &identityError{
			"the agent's token is not bound to Node " + o.NodeName,
			"make one with: " + agenttoken.Command(namespace, name, o.NodeName),
		}
	}
	return namespace, nil
}

// explain adds to an error about the agent's credentials what the token says about
// itself. It returns any other error as it is.
func (o *AgentOptions) explain(cfg *rest.Config, err error) error {
	if !apierrors.IsUnauthorized(err) {
		return err
	}
	token := cfg.BearerToken
	if cfg.BearerTokenFile != "" {
		current, readErr := agenttoken.Read(cfg.BearerTokenFile)
		if readErr != nil {
			return errors.Join(err, readErr)
		}
		token = current
	}
	claims, parseErr := agenttoken.Parse(token)
	if parseErr != nil {
		return err
	}
	fix := "make a new token with: " + agenttoken.Command(claims.Namespace, claims.ServiceAccount, o.NodeName)
	if claims.Pod != "" { // only the kubelet makes such tokens
		fix = fmt.Sprintf("replace the agent's Pod with: kubectl -n %s delete pod %s", claims.Namespace, claims.Pod)
	}
	if time.Now().After(claims.Expires) {
		return &identityError{"the agent's token has expired", fix}
	}
	return fmt.Errorf("the Node or Pod that the token is bound to may have been deleted; %s: %w", fix, err)
}

// renewToken keeps the token in the kubeconfig's tokenFile valid until ctx ends.
// In a Pod, the kubelet does this, and the agent only reads the file again.
func (o *AgentOptions) renewToken(ctx context.Context, cfg *rest.Config, registry prometheus.Registerer) error {
	if o.Kubeconfig == "" {
		return nil
	}
	if cfg.BearerTokenFile == "" {
		ctrl.Log.Info("The agent's credentials are not renewed, because the kubeconfig has no tokenFile", "kubeconfig", o.Kubeconfig)
		return nil
	}
	counts, err := agenttoken.NewMetrics(registry)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	bounded, err := boundedClient(cfg)
	if err != nil {
		return fmt.Errorf("--kubeconfig: %w", err)
	}
	core, err := corev1client.NewForConfigAndClient(cfg, bounded)
	if err != nil {
		return fmt.Errorf("--kubeconfig: %w", err)
	}
	go agenttoken.New(agenttoken.Options{
		File: cfg.BearerTokenFile, Node: o.NodeName, Lifetime: o.TokenLifetime, Clock: clock.RealClock{},
		Log: ctrl.Log.WithName("token"), Metrics: counts,
		Request: func(ctx context.Context, namespace, account string, r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
			return core.ServiceAccounts(namespace).CreateToken(ctx, account, r, metav1.CreateOptions{})
		},
	}).Start(ctx)
	return nil
}
