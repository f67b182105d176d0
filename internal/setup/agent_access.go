// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"

	"github.com/spf13/pflag"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"botbottle.dev/bottle-operator/internal/accesscert"
)

// accessFile, below the state folder, has the agent's serving certificate and its key.
const accessFile = "access/agent.pem"

// AgentAccessOptions configure the server to which the manager connects.
type AgentAccessOptions struct {
	Address   string
	Advertise string
}

// Bind adds the flags.
func (o *AgentAccessOptions) Bind(fs *pflag.FlagSet) {
	fs.StringVar(&o.Address, "access-bind-address", ":9443", "address at which the agent serves exec, logs and copying to the manager, and to nobody else; 0 disables it")
	fs.StringVar(&o.Advertise, "access-advertise-address", "", "IP[:PORT] at which the manager reaches the server of --access-bind-address, with one of the Node's addresses; by default the Node's InternalIP and the port of --access-bind-address")
}

// Validate returns an error that names every invalid flag.
func (o *AgentAccessOptions) Validate() error {
	_, err := o.advertised()
	return err
}

func (o *AgentAccessOptions) enabled() bool { return o.Address != "" && o.Address != "0" }

// advertised returns where the manager reaches the server. An invalid address stands
// for the Node's InternalIP, and port 0 means that there is no server.
func (o *AgentAccessOptions) advertised() (netip.AddrPort, error) {
	if !o.enabled() {
		return netip.AddrPort{}, nil
	}
	host, text, err := net.SplitHostPort(o.Address)
	port, portErr := strconv.ParseUint(text, 10, 16)
	if err := errors.Join(err, portErr); err != nil || port == 0 {
		return netip.AddrPort{}, fmt.Errorf("--access-bind-address %q: want IP:PORT, :PORT or 0", o.Address)
	}
	if o.Advertise == "" {
		addr, err := netip.ParseAddr(host)
		if err != nil || addr.IsUnspecified() {
			addr = netip.Addr{}
		}
		return netip.AddrPortFrom(addr, uint16(port)), nil
	}
	if at, err := netip.ParseAddrPort(o.Advertise); err == nil && at.Port() != 0 && at.Addr().IsGlobalUnicast() {
		return at, nil
	}
	if addr, err := netip.ParseAddr(o.Advertise); err == nil && addr.IsGlobalUnicast() {
		return netip.AddrPortFrom(addr, uint16(port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("--access-advertise-address %q: want IP or IP:PORT, with an address that is not a loopback, link-local or multicast one", o.Advertise)
}

// accessCertificate adds to mgr what keeps the server's certificate valid.
func (o *AgentOptions) accessCertificate(mgr ctrl.Manager) (*accesscert.Keeper, error) {
	c, err := certificatesclient.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("certificate of the agent: %w", err)
	}
	keeper := accesscert.NewKeeper(accesscert.KeeperOptions{
		Node: o.NodeName, File: filepath.Join(o.StateDir, accessFile), Client: c.CertificateSigningRequests(),
		Clock: clock.RealClock{}, Log: mgr.GetLogger().WithName("access-certificate"),
	})
	if err := keeper.Register(metrics.Registry); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return keeper, mgr.Add(keeper)
}
