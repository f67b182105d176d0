// SPDX-License-Identifier: Apache-2.0

// Package agenttoken reads and renews the token with which the agent of one node
// signs in. The token belongs to the agents' ServiceAccount and is bound to the Node
// object of that node. The package does not verify tokens: only the API server can do
// that, and a token that it does not accept is of no use to anyone.
package agenttoken

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Claims are what a token says about itself.
type Claims struct {
	// Namespace and ServiceAccount name the token's ServiceAccount.
	Namespace, ServiceAccount string
	// Node and NodeUID identify the Node that the token is bound to; "" if none.
	Node    string
	NodeUID types.UID
	// Pod is the name of the Pod that the token is bound to; "" if none.
	Pod string
	// Issued and Expires bound the time in which the token is valid.
	Issued, Expires time.Time
}

var errNoToken = errors.New("it is not a ServiceAccount token")

// Parse returns the claims of a ServiceAccount token. Its errors do not quote the
// token.
func Parse(token string) (Claims, error) {
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		return Claims{}, errNoToken
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return Claims{}, errNoToken
	}
	var body struct {
		Issued     int64 `json:"iat"`
		Expires    int64 `json:"exp"`
		Kubernetes struct {
			Namespace      string `json:"namespace"`
			ServiceAccount struct {
				Name string `json:"name"`
			} `json:"serviceaccount"`
			Pod struct {
				Name string `json:"name"`
			} `json:"pod"`
			Node struct {
				Name string    `json:"name"`
				UID  types.UID `json:"uid"`
			} `json:"node"`
		} `json:"kubernetes.io"`
	}
	if err := json.Unmarshal(payload, &body); err != nil {
		return Claims{}, errNoToken
	}
	k := body.Kubernetes
	if k.Namespace == "" || k.ServiceAccount.Name == "" || body.Issued <= 0 || body.Expires <= body.Issued {
		return Claims{}, errNoToken
	}
	return Claims{
		Namespace: k.Namespace, ServiceAccount: k.ServiceAccount.Name, Node: k.Node.Name, NodeUID: k.Node.UID, Pod: k.Pod.Name,
		Issued: time.Unix(body.Issued, 0), Expires: time.Unix(body.Expires, 0),
	}, nil
}

// Command returns the command with which an administrator makes a token that is
// bound to a Node.
func Command(namespace, account, node string) string {
	return fmt.Sprintf("kubectl -n %s create token %s --bound-object-kind Node --bound-object-name %s", namespace, account, node)
}
