// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	apiversion "k8s.io/apimachinery/pkg/version"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
)

// The oldest Kubernetes minor version, 1.33, in which tokens that are bound to
// Nodes are generally available. Older API servers may ignore the binding.
const oldestKubernetesMinor = 33

// tooOldError reports an API server that is too old.
type tooOldError struct{ version string }

func (e tooOldError) Error() string {
	return fmt.Sprintf("Kubernetes 1.%d or newer is required, and the API server is %s: upgrade the cluster", oldestKubernetesMinor, e.version)
}

// checkKubernetes returns a tooOldError if the API server is too old.
func checkKubernetes(ctx context.Context, c rest.Interface) error {
	data, err := c.Get().AbsPath("/version").Do(ctx).Raw()
	if err != nil {
		return fmt.Errorf("version of the API server: %w", err)
	}
	var v apiversion.Info
	if err := json.Unmarshal(data, &v); err != nil {
		return fmt.Errorf("version of the API server: %w", err)
	}
	major, err1 := strconv.Atoi(v.Major)
	minor, err2 := strconv.Atoi(strings.TrimSuffix(v.Minor, "+")) // some providers add a plus sign
	if err1 != nil || err2 != nil {
		return fmt.Errorf("version of the API server: got major %.16q and minor %.16q, want numbers", v.Major, v.Minor)
	}
	if major < 1 || major == 1 && minor < oldestKubernetesMinor {
		return tooOldError{version: fmt.Sprintf("%d.%d", major, minor)}
	}
	return nil
}

// requireKubernetes waits until the API server has told its version. It returns a
// tooOldError if that is too old, and otherwise nil or ctx.Err().
func requireKubernetes(ctx context.Context, cfg *rest.Config) error {
	bounded, err := boundedClient(cfg)
	if err != nil {
		return fmt.Errorf("--kubeconfig: %w", err)
	}
	core, err := corev1client.NewForConfigAndClient(cfg, bounded)
	if err != nil {
		return fmt.Errorf("--kubeconfig: %w", err)
	}
	pauses, logged := retryPauses(), ""
	for {
		err := checkKubernetes(ctx, core.RESTClient())
		if err == nil || errors.As(err, new(tooOldError)) {
			return err
		}
		if problem := problemOf(err); problem != logged {
			ctrl.Log.Error(err, "Waiting for the API server", "reason", problem)
			logged = problem
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pauses.Step()):
		}
	}
}
