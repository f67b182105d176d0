// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	"botbottle.dev/bottle-operator/internal/egress"
)

const (
	// proofTimeout bounds a proof. kube-apiserver gives up after 60 s.
	proofTimeout = 55 * time.Second
	// maxProof bounds the evidence that an agent sends, and the rest bounds parts of
	// it.
	maxProof        = 256 << 10
	maxProofTargets = 64
	maxProofWord    = 128
)

// round makes a plain request to the agent. The caller closes the body of the answer.
// wait bounds the time until the answer begins.
func (h *hop) round(ctx context.Context, c *call, wait time.Duration) (*http.Response, error) {
	request, err := c.request(ctx)
	if err != nil {
		return nil, err
	}
	var refusal error
	transport := &http.Transport{
		DisableKeepAlives: true, DisableCompression: true,
		ResponseHeaderTimeout: wait, MaxResponseHeaderBytes: maxHead,
		DialContext: func(dialing context.Context, _, _ string) (net.Conn, error) {
			conn, err := h.dial(ctx, c.target)
			refusal = err
			return conn, err
		},
	}
	answer, err := transport.RoundTrip(request)
	switch {
	case refusal != nil:
		return nil, refusal
	case err != nil:
		return nil, unreachable(c.target, err)
	case answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusCreated:
		defer answer.Body.Close()
		return nil, refused(c.target, answer)
	}
	return answer, nil
}

func (a *access) readLog(c *connection) error {
	o, err := parsed(c, "BottleLogOptions", parseLog)
	if err != nil {
		return err
	}
	b, err := a.bottle(c)
	if err != nil {
		return err
	}
	t, err := a.find.target(c.r.Context(), b)
	if err != nil {
		return err
	}
	opened, ctx, err := a.sessions.begin(c.r, t, verbLog)
	if err != nil {
		return err
	}
	answer, err := a.hop.round(ctx, &call{target: t, verb: verbLog, method: http.MethodGet, options: o, session: opened.id}, answerTimeout)
	if err != nil {
		a.sessions.end(opened, err)
		return err
	}
	defer answer.Body.Close()
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	c.w.Header().Set("X-Content-Type-Options", "nosniff")
	c.w.WriteHeader(http.StatusOK)
	err = sendLog(c.w, answer.Body, opened)
	if err != nil {
		err = errors.Join(errInterrupted, err)
	}
	a.sessions.end(opened, err)
	if err != nil {
		// The client must not take half a log for a whole one.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// sendLog copies a log to a client and passes each piece on immediately.
func sendLog(w http.ResponseWriter, log io.Reader, opened *session) error {
	flusher := http.NewResponseController(w)
	if err := flusher.Flush(); err != nil {
		return err
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := log.Read(buffer)
		if n > 0 {
			opened.out.Add(int64(n))
			if _, err := w.Write(buffer[:n]); err != nil {
				return err
			}
			if err := flusher.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (a *access) prove(c *connection) error {
	b, err := a.bottle(c)
	if err != nil {
		return err
	}
	if err := requireMachine(b); err != nil {
		return err
	}
	t, err := a.find.target(c.r.Context(), b)
	if err != nil {
		return err
	}
	opened, ctx, err := a.sessions.begin(c.r, t, verbProof)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	proof, err := a.hop.prove(ctx, &call{target: t, verb: verbProof, method: http.MethodPost, options: proofOptions{}, session: opened.id})
	a.sessions.end(opened, err)
	if err != nil {
		return err
	}
	c.responder.Object(http.StatusCreated, proof)
	return nil
}

// prove asks the agent for a proof.
func (h *hop) prove(ctx context.Context, c *call) (*subresources.BottleProof, error) {
	answer, err := h.round(ctx, c, proofTimeout)
	if err != nil {
		if ctx.Err() != nil {
			return nil, apierrors.NewTimeoutError(fmt.Sprintf("Bottle %s: the proof took longer than %s", c.target.bottle.Name, proofTimeout), 10)
		}
		return nil, err
	}
	defer answer.Body.Close()
	said := &subresources.BottleProof{}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxProof)).Decode(said); err != nil {
		return nil, unreachable(c.target, fmt.Errorf("no valid proof: %w", err))
	}
	return cleanProof(c.target, said), nil
}

// cleanProof returns what an agent says about a proof, bounded and cleaned.
func cleanProof(t *target, said *subresources.BottleProof) *subresources.BottleProof {
	word := func(s string) string { return egress.Printable(s, maxProofWord) }
	out := &subresources.BottleProof{
		StartTime: said.StartTime, FinishTime: said.FinishTime,
		Status: said.Status, Reason: word(said.Reason), Message: egress.Printable(said.Message, maxMessage),
	}
	out.Namespace, out.Name, out.UID = t.bottle.Namespace, t.bottle.Name, t.bottle.UID
	if s := out.Status; s != metav1.ConditionTrue && s != metav1.ConditionFalse {
		out.Status = metav1.ConditionUnknown
	}
	for _, p := range said.Targets[:min(len(said.Targets), maxProofTargets)] {
		out.Targets = append(out.Targets, subresources.ProofTarget{
			Address: word(p.Address), Protocol: word(p.Protocol), Expected: word(p.Expected), Observed: word(p.Observed), By: word(p.By),
		})
	}
	return out
}
