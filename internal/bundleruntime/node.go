// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"botbottle.dev/bottle-operator/internal/host"
)

// Auto as a value of the agent's flag means that Node finds out the runtime.
const Auto Kind = "auto"

// Node finds out which runtime new Bottles of a node get.
type Node struct {
	// Wanted is the agent's flag: Auto, or the runtime of all new Bottles.
	Wanted Kind
	// KubeletDir is the kubelet's folder, and DockerHost the address of the Docker Engine.
	KubeletDir, DockerHost string
	// Socket returns the present address of the node's container runtime. It changes until
	// one has answered.
	Socket func() string
	// Ping asks the container runtime whether it serves a kubelet: ErrUnsupported if it
	// does not, ErrUnavailable if it does not answer.
	Ping func(ctx context.Context) error

	mu    sync.Mutex
	found Kind
	// asked is the Socket at which something answered that serves no kubelet; "" for none.
	asked string
}

// Known returns the runtime of new Bottles; "" if it is not known yet.
func (n *Node) Known() Kind {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.Wanted != Auto {
		return n.Wanted
	}
	if n.asked != "" && n.asked != n.Socket() {
		return "" // the kubelet's container runtime may have started since then
	}
	return n.found
}

// Runtime returns the runtime of new Bottles. It returns ErrUnavailable while that cannot
// be found out: on a node with a kubelet whose container runtime does not answer, no Bottle
// may wait for a Docker Engine. Once found, the answer stays, unless it came from the
// containerd of a Docker Engine and another socket has appeared since then.
func (n *Node) Runtime(ctx context.Context) (Kind, error) {
	if kind := n.Known(); kind != "" {
		return kind, nil
	}
	kind, asked := Docker, ""
	if exists(n.KubeletDir) {
		socket := n.Socket()
		if !socketExists(socket) && socketExists(n.DockerHost) {
			return Docker, nil // not kept: the container runtime may still start
		}
		switch err := n.Ping(ctx); {
		case err == nil:
			kind = Pod
		case errors.Is(err, host.ErrUnsupported): // the containerd of a Docker Engine
			asked = socket
		default:
			return "", fmt.Errorf("the container runtime at %s does not answer, and this node has a kubelet (%s exists): start the container runtime, or set the agent's --cri-socket to its address; --bundle-runtime=docker is for nodes whose bundles docker runs (%w)", socket, n.KubeletDir, err)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.found, n.asked = kind, asked
	return kind, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// socketExists reports whether the socket of an address exists. It is true for an address
// that is not a file.
func socketExists(address string) bool {
	path, isFile := strings.CutPrefix(address, "unix://")
	return !isFile || exists(path)
}
