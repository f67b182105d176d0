// SPDX-License-Identifier: Apache-2.0

package surroundings

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"botbottle.dev/bottle-operator/internal/subnet"
)

const (
	// clusterTimeout bounds one reading of the cluster.
	clusterTimeout = 30 * time.Second
	// clusterInterval is the shortest time between two readings. In a large cluster
	// it is nodeInterval for each Node, so that the agents of all nodes together do
	// not load the API server: 1000 Nodes are read every 50 minutes.
	clusterInterval = time.Minute
	nodeInterval    = 3 * time.Second
	// pageSize is how many objects one request returns.
	pageSize = 500
	// maxOfNode, maxServiceCIDRs and maxEndpoints bound how many networks count for
	// one Node, for the Services, and for the API server: whoever can write one of
	// these objects must not be able to exclude all subnets one by one.
	maxOfNode       = 16
	maxServiceCIDRs = 16
	maxEndpoints    = 16
)

// apiService is the Service, and the EndpointSlice, of the API server itself.
var apiService = types.NamespacedName{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}

// FollowCluster reads the networks of the cluster's nodes, Pods and Services at once,
// and returns when it has done so or could not. It goes on to read them until ctx
// ends. What the agent may not read is left out.
func (s *Source) FollowCluster(ctx context.Context, api client.Reader) {
	pause := s.readCluster(ctx, api)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.Clock.After(pause):
			}
			pause = s.readCluster(ctx, api)
		}
	}()
}

// readCluster returns after which time to read again.
func (s *Source) readCluster(ctx context.Context, api client.Reader) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	nodes := 0
	for part, read := range map[string]func(context.Context, client.Reader) ([]subnet.Reserved, error){
		"nodes": func(ctx context.Context, api client.Reader) (out []subnet.Reserved, err error) {
			out, nodes, err = readNodes(ctx, api)
			return out, err
		},
		"services": readServices, "api server": readAPIServer, "endpoints": readEndpoints,
	} {
		networks, err := read(ctx, api)
		switch {
		case err == nil:
			s.set(part, networks)
			s.problem(part, "")
		case !errors.Is(ctx.Err(), context.Canceled):
			s.problem(part, problemOf(err)) // what was read before still counts
		}
	}
	return max(clusterInterval, time.Duration(nodes)*nodeInterval)
}

// problemOf describes an error in a fixed phrase, because its text may differ from
// one attempt to the next.
func problemOf(err error) string {
	switch {
	case apierrors.IsForbidden(err):
		return "the agent may not read it: apply config/rbac of this release"
	case meta.IsNoMatchError(err):
		return "the API server does not know it"
	}
	return "the API server did not answer"
}

// readNodes returns the addresses and the Pod networks of all Nodes, and the number
// of Nodes.
func readNodes(ctx context.Context, api client.Reader) (out []subnet.Reserved, count int, err error) {
	list := &corev1.NodeList{}
	for {
		if err := api.List(ctx, list, client.Limit(pageSize), client.Continue(list.Continue)); err != nil {
			return nil, 0, fmt.Errorf("list the nodes: %w", err)
		}
		for i := range list.Items {
			out = append(out, ofNode(&list.Items[i])...)
		}
		count += len(list.Items)
		if list.Continue == "" {
			return out, count, nil
		}
	}
}

func ofNode(n *corev1.Node) (out []subnet.Reserved) {
	for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, reservedNetwork(p, "the Pod network of Node "+n.Name)...)
		}
	}
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil {
			out = append(out, reservedAddr(addr, "an address of Node "+n.Name)...)
		}
	}
	return out[:min(len(out), maxOfNode)]
}

// readServices returns the Service networks.
func readServices(ctx context.Context, api client.Reader) (out []subnet.Reserved, err error) {
	list := &networkingv1.ServiceCIDRList{}
	if err := api.List(ctx, list, client.Limit(maxServiceCIDRs)); err != nil {
		return nil, fmt.Errorf("list the Service networks: %w", err)
	}
	for _, c := range list.Items {
		for _, text := range c.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				out = append(out, reservedNetwork(p, "the Service network")...)
			}
		}
	}
	return out, nil
}

// readAPIServer returns the addresses of the Service of the API server.
func readAPIServer(ctx context.Context, api client.Reader) (out []subnet.Reserved, err error) {
	service := &corev1.Service{}
	if err := api.Get(ctx, apiService, service); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("read the Service %s: %w", apiService, err)
	}
	for _, text := range service.Spec.ClusterIPs {
		if a, err := netip.ParseAddr(text); err == nil {
			out = append(out, reservedAddr(a, apiServer)...)
		}
	}
	return out, nil
}

// readEndpoints returns the addresses of the API servers behind their Service.
func readEndpoints(ctx context.Context, api client.Reader) (out []subnet.Reserved, err error) {
	slice := &discoveryv1.EndpointSlice{}
	if err := api.Get(ctx, apiService, slice); client.IgnoreNotFound(err) != nil {
		return nil, fmt.Errorf("read the EndpointSlice %s: %w", apiService, err)
	}
	for _, e := range slice.Endpoints {
		for _, text := range e.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				out = append(out, reservedAddr(a, apiServer)...)
			}
		}
	}
	return out[:min(len(out), maxEndpoints)], nil
}

const apiServer = "the API server"
