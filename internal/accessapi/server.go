// SPDX-License-Identifier: Apache-2.0

package accessapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	subresources "botbottle.dev/bottle-operator/api/subresources/v1alpha1"
	generated "botbottle.dev/bottle-operator/internal/accessapi/openapi"
)

// shutdownTimeout bounds how long a stopping server waits for short requests. The
// sessions end at once.
const shutdownTimeout = 5 * time.Second

// Options configure a Server.
type Options struct {
	// Address is where the server listens, as HOST:PORT or :PORT.
	Address string
	// Namespace has the agents' Leases.
	Namespace string
	// Client reads Bottles, Leases and Nodes, and sets annotations of Bottles. It must not
	// read from a cache.
	Client client.Client
	// Cache reads Bottles, Leases and Nodes, and may read from a cache.
	Cache client.Reader
	// Kubernetes serves authentication and authorisation.
	Kubernetes kubernetes.Interface
	// Serving is the certificate that kube-apiserver sees. It is used once Ready is
	// closed.
	Serving dynamiccertificates.CertKeyContentProvider
	Ready   <-chan struct{}
	// AgentTLS returns the configuration for a connection to the agent of a node.
	AgentTLS func(node string) (*tls.Config, error)
	// Environments is the resource bottleenvironments, or nil.
	Environments rest.Storage
	Registerer   prometheus.Registerer
	Clock        clock.PassiveClock
	// Log gets the audit lines.
	Log logr.Logger
}

// Server serves the API. Every manager serves it, whether it is the leader or not.
type Server struct {
	options  Options
	metrics  *metrics
	identity *identity
	serving  atomic.Bool
}

// New returns a server that is started with Start.
func New(o Options) (*Server, error) {
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	i, err := newIdentity(o.Kubernetes)
	if err != nil {
		return nil, err
	}
	return &Server{options: o, metrics: m, identity: i}, nil
}

// Ready returns an error until the server serves.
func (s *Server) Ready() error {
	if !s.serving.Load() {
		return errors.New("the access API is not served yet")
	}
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (s *Server) NeedLeaderElection() bool { return false }

// Start serves until ctx ends.
func (s *Server) Start(ctx context.Context) error {
	select {
	case <-s.options.Ready:
	case <-ctx.Done():
		return nil
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.options.Address)
	if err != nil {
		return fmt.Errorf("access API: %w", err)
	}
	return s.serve(ctx, listener)
}

// serve serves on a listener until ctx ends.
func (s *Server) serve(ctx context.Context, listener net.Listener) error {
	s.identity.run(ctx)
	server, err := s.build(ctx, listener)
	if err != nil {
		listener.Close()
		return fmt.Errorf("access API: %w", err)
	}
	server.ShutdownTimeout = shutdownTimeout
	err = server.AddPostStartHook("access-ready", func(genericapiserver.PostStartHookContext) error {
		s.serving.Store(true)
		return nil
	})
	if err != nil {
		listener.Close()
		return fmt.Errorf("access API: %w", err)
	}
	if err := server.PrepareRun().RunWithContext(ctx); err != nil {
		return fmt.Errorf("access API: %w", err)
	}
	return nil
}

func (s *Server) build(ctx context.Context, listener net.Listener) (*genericapiserver.GenericAPIServer, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	codecs := serializer.NewCodecFactory(scheme)
	config := s.config(scheme, codecs)
	config.SecureServing = &genericapiserver.SecureServingInfo{
		Listener: listener, Cert: s.options.Serving, ClientCA: s.identity.ca, MinTLSVersion: tls.VersionTLS12,
	}
	config.ExternalAddress = listener.Addr().String()
	config.Authentication.Authenticator = s.identity.authenticator
	config.Authorization.Authorizer = s.identity.authorizer

	server, err := config.Complete(nil).New("bottle-access", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, err
	}
	group := genericapiserver.NewDefaultAPIGroupInfo(subresources.GroupVersion.Group, scheme, runtime.NewParameterCodec(scheme), codecs)
	group.VersionedResourcesStorageMap[subresources.GroupVersion.Version] = s.access(ctx).storage(s.options.Environments)
	if err := server.InstallAPIGroup(&group); err != nil {
		return nil, err
	}
	return server, nil
}

// config returns the library's configuration: no storage, no admission, no loopback
// client and none of the debugging endpoints.
func (s *Server) config(scheme *runtime.Scheme, codecs serializer.CodecFactory) *genericapiserver.Config {
	config := genericapiserver.NewConfig(codecs)
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	config.LoopbackClientConfig = &restclient.Config{}
	config.EnableProfiling, config.EnableMetrics, config.EnableIndex = false, false, false
	config.LongRunningFunc = genericfilters.BasicLongRunningRequestCheck(
		sets.NewString("watch"), sets.NewString(verbExec, verbAttach, verbLog))
	names := openapi.NewDefinitionNamer(scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(generated.GetOpenAPIDefinitions, names)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(generated.GetOpenAPIDefinitions, names)
	config.OpenAPIConfig.Info.Title, config.OpenAPIV3Config.Info.Title = "Bottle access", "Bottle access"
	return config
}

// access returns what the resources share. Sessions end with ctx.
func (s *Server) access(ctx context.Context) *access {
	o := s.options
	find := &finder{reader: o.Client, cache: o.Cache, namespace: o.Namespace}
	annotate := &annotator{client: o.Client, clock: o.Clock}
	return &access{
		find: find, annotate: annotate, authorize: s.identity.authorizer,
		files: &files{find: find, annotate: annotate, timeout: filesTimeout},
		hop:   &hop{tls: o.AgentTLS},
		sessions: &sessions{log: o.Log, clock: o.Clock, metrics: s.metrics, stopped: ctx,
			byUser: map[string]int{}, byNamespace: map[string]int{}},
	}
}
