// SPDX-License-Identifier: Apache-2.0

package agenttoken

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"botbottle.dev/bottle-operator/internal/atomicfile"
)

const (
	// longestToken bounds what is read of the token's file, in bytes.
	longestToken = 64 << 10
	// renewAfter is the part of a token's life after which it is renewed. The rest is how
	// long a node may be off without losing its token.
	renewAfter = 0.1
	// checkInterval is the longest pause between two looks at the file. Somebody
	// may replace the token meanwhile.
	checkInterval = 10 * time.Minute
	// shortestPause is the shortest pause after a success.
	shortestPause = 10 * time.Second
)

// Options of a Renewer. All are required.
type Options struct {
	// File holds the token. The Renewer replaces it.
	File string
	// Node is the Node that the token must be bound to.
	Node string
	// Lifetime is how long a new token is valid.
	Lifetime time.Duration
	// Request requests a token of a ServiceAccount. It signs in with the token in
	// File, and has a time limit.
	Request func(ctx context.Context, namespace, account string, r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
	Clock   clock.WithTicker
	Log     logr.Logger
	Metrics *Metrics
}

// Renewer keeps a token in a file valid.
type Renewer struct {
	Options
	// renewed is true once this process has made a token.
	renewed bool
	// failing is the error that was logged last; "" after a success.
	failing string
}

// New returns a Renewer.
func New(o Options) *Renewer { return &Renewer{Options: o} }

// Start renews the token until ctx ends. After a failure it tries again, with
// growing pauses.
func (r *Renewer) Start(ctx context.Context) {
	pauses := retryPauses()
	for {
		pause, err := r.step(ctx)
		if ctx.Err() != nil {
			return
		}
		r.report(err)
		if err != nil {
			pause = pauses.Step()
		} else {
			pauses = retryPauses()
		}
		timer := r.Clock.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
	}
}

func retryPauses() wait.Backoff {
	return wait.Backoff{Duration: 5 * time.Second, Factor: 2, Jitter: 0.2, Steps: 100, Cap: 5 * time.Minute}
}

// report logs an error unless it is the one that was logged last.
func (r *Renewer) report(err error) {
	switch {
	case err == nil && r.failing != "":
		r.Log.Info("The agent's token can be renewed again")
		r.failing = ""
	case err != nil && err.Error() != r.failing:
		r.Log.Error(err, "The agent's token cannot be renewed")
		r.failing = err.Error()
	}
}

// step renews the token if it is time. It returns the pause until the next step.
func (r *Renewer) step(ctx context.Context) (time.Duration, error) {
	token, err := Read(r.File)
	if err != nil {
		return 0, err
	}
	claims, err := Parse(token)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", r.File, err)
	}
	r.Metrics.expires(claims.Expires)
	if claims.Node != r.Node || claims.NodeUID == "" {
		return 0, fmt.Errorf("the token in %s is not bound to Node %s; make one with: %s",
			r.File, r.Node, Command(claims.Namespace, claims.ServiceAccount, r.Node))
	}
	if due := r.due(claims); r.Clock.Now().Before(due) {
		return min(due.Sub(r.Clock.Now()), checkInterval), nil
	}
	if err := r.renew(ctx, claims); err != nil {
		r.Metrics.failed()
		return 0, err
	}
	r.renewed = true
	return shortestPause, nil
}

// due returns when the token is to be renewed. A first token, which somebody made
// for a shorter time than the agent's own tokens, is renewed at once.
func (r *Renewer) due(c Claims) time.Time {
	life := c.Expires.Sub(c.Issued)
	if life < r.Lifetime && !r.renewed {
		return c.Issued
	}
	return c.Issued.Add(time.Duration(renewAfter * float64(life)))
}

// renew replaces the token in the file with a new one.
func (r *Renewer) renew(ctx context.Context, old Claims) error {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: ptr.To(int64(r.Lifetime / time.Second)),
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: old.Node, UID: old.NodeUID},
	}}
	made, err := r.Request(ctx, old.Namespace, old.ServiceAccount, request)
	switch {
	case apierrors.IsUnauthorized(err), apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return fmt.Errorf("the API server no longer accepts the token, which is valid until %s unless its Node was deleted; make a new one with: %s: %w",
			old.Expires.UTC().Format(time.RFC3339), Command(old.Namespace, old.ServiceAccount, old.Node), err)
	case err != nil:
		return fmt.Errorf("request a token: %w", err)
	}
	claims, err := Parse(made.Status.Token)
	if err != nil {
		return fmt.Errorf("the token that the API server made: %w", err)
	}
	if claims.Node != old.Node || claims.NodeUID != old.NodeUID {
		return errors.New("the token that the API server made is not bound to the Node: Kubernetes 1.33 or newer is required")
	}
	if err := atomicfile.Write(r.File, []byte(made.Status.Token), 0o600); err != nil {
		return err
	}
	r.Metrics.expires(claims.Expires)
	r.Log.Info("Renewed the agent's token", "expires", claims.Expires.UTC().Format(time.RFC3339))
	return nil
}

// Read returns the token in a file.
func Read(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the agent's token: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, longestToken+1))
	if err != nil {
		return "", fmt.Errorf("read the agent's token: %w", err)
	}
	if len(data) > longestToken {
		return "", fmt.Errorf("the agent's token in %s is longer than %d bytes", path, longestToken)
	}
	return string(data), nil
}
