// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"botbottle.dev/bottle-operator/internal/egress"
)

const (
	// maxAnswer bounds the body of an error that an agent sends.
	maxAnswer = 64 << 10
	// maxMessage bounds what a user sees of it.
	maxMessage = 1024
	// maxRetryAfter bounds how many seconds an agent can make a client wait.
	maxRetryAfter = 60
)

// unreachable is the error for an agent that does not answer.
func unreachable(t *target, err error) error {
	return apierrors.NewServiceUnavailable(fmt.Sprintf(
		"the agent of node %s does not answer at %s: %s. Check that the node is up, that its agent runs, and that the manager can reach this address",
		t.node, t.address, egress.Printable(rootCause(err).Error(), maxMessage)))
}

// rootCause drops the layers that repeat the address.
func rootCause(err error) error {
	for next := err; next != nil; next = errors.Unwrap(next) {
		err = next
	}
	return err
}

// refused returns an agent's error for the user. The agent is not trusted: only the
// code, a bounded and cleaned message and a bounded delay are taken from it.
func refused(t *target, response *http.Response) error {
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer)) // what was read is enough
	said := metav1.Status{}
	message := ""
	if json.Unmarshal(body, &said) == nil {
		message = egress.Printable(said.Message, maxMessage)
	}
	if message == "" {
		message = "no reason given"
	}
	code := response.StatusCode
	switch {
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		// The user has been authorised. It is the manager that the agent does not accept.
		return apierrors.NewServiceUnavailable(fmt.Sprintf("the agent of node %s does not accept this manager: %s", t.node, message))
	case code < http.StatusBadRequest || code > 599:
		return apierrors.NewInternalError(fmt.Errorf("the agent of node %s answered with the unexpected code %d", t.node, code))
	}
	wait := 0
	if code == http.StatusTooManyRequests || code == http.StatusServiceUnavailable {
		wait = 1
		if n, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
			wait = min(max(n, 1), maxRetryAfter)
		}
	}
	err := apierrors.NewGenericServerResponse(code, "", schema.GroupResource{}, t.bottle.Name, "", wait, false)
	err.ErrStatus.Message = fmt.Sprintf("Bottle %s on node %s: %s", t.bottle.Name, t.node, message)
	err.ErrStatus.Details.Causes = nil
	return err
}
