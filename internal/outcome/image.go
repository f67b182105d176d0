// SPDX-License-Identifier: Apache-2.0

package outcome

import (
	"errors"
	"strings"
	"time"

	"botbottle.dev/bottle-operator/api/v1alpha1"
	"botbottle.dev/bottle-operator/internal/flow"
	"botbottle.dev/bottle-operator/internal/host"
)

// Image returns the outcome of a request for an image, with the reasons that Pods use.
// missing names the pull secrets that are missing.
func Image(err error, missing []string, now time.Time) error {
	var pulling *host.Pulling
	var failed *host.PullFailed
	switch {
	case errors.As(err, &pulling): // watchImages ends the wait
		return &flow.Waiting{Reason: v1alpha1.ReasonImagePulling, Message: pulling.Message}
	case errors.As(err, &failed):
		reason := v1alpha1.ReasonErrImagePull
		if failed.BackOff {
			reason = v1alpha1.ReasonImagePullBackOff
		}
		message := failed.Error()
		if len(missing) > 0 {
			message = "Secrets in spec.imagePullSecrets: " + strings.Join(missing, ", ") +
				": create them with kubectl create secret docker-registry; " + message
		}
		return &flow.Waiting{Reason: reason, Message: message, After: max(failed.Until.Sub(now), time.Second)}
	case errors.Is(err, host.ErrNeverPull):
		return &flow.Waiting{Reason: v1alpha1.ReasonImageNeverPull, After: externalDelay, Message: err.Error()}
	case errors.Is(err, host.ErrNotFound):
		return &flow.Waiting{Reason: v1alpha1.ReasonImageNotFound, After: nodeDelay,
			Message: err.Error() + ": put the file there, or change spec.image or spec.artifact"}
	case errors.Is(err, host.ErrInvalid):
		return &flow.Terminal{Reason: v1alpha1.ReasonInvalidImageName, Err: err}
	}
	return err
}
