// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"

	brokercontroller "botbottle.dev/bottle-operator/controllers/broker"
	"botbottle.dev/bottle-operator/internal/broker"
	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/bundleruntime"
	"botbottle.dev/bottle-operator/internal/cabundle"
	"botbottle.dev/bottle-operator/internal/envwatch"
	"botbottle.dev/bottle-operator/internal/exchange"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/vault"
)

// openVault returns the node's vault, after it has removed what Bottles left there that
// have no folder in the state directory.
func openVault(ctx context.Context, p parts) (host.Vault, error) {
	v := vault.New(vault.Options{Dir: p.dir.VaultDir(), Reader: bundleimage.UserID})
	uids, err := ownerUIDs(p.dir)
	if err != nil {
		return nil, err
	}
	if err := v.Sweep(ctx, uids); err != nil {
		ctrl.Log.Error(err, "Could not remove what earlier Bottles left in the vault")
	}
	return bundleruntime.NewVault(p.runtimes.set.Choices, v, vault.Pods{Dir: p.runtimes.places.Secrets}), nil
}

// brokers are what serves the built-in bundles.
type brokers struct {
	broker     *broker.Broker
	controller *brokercontroller.Reconciler
}

// addBroker adds to mgr what serves the built-in bundles.
func (o *AgentOptions) addBroker(mgr ctrl.Manager, v host.Vault, environments *envwatch.Source, exchanges *exchange.Exchanges) (brokers, error) {
	b := broker.New(broker.Options{Bottles: mgr.GetClient(), References: environments, Vault: v, Exchanges: exchanges, Clock: clock.RealClock{}})
	c := brokercontroller.New(mgr.GetClient(), o.NodeName, b)
	return brokers{b, c}, c.SetupWithManager(mgr)
}

// upstreamCA returns a function that returns the content of --egress-upstream-ca, or nil
// without this flag. It reads the file again at each call. While the file cannot be
// read, or is not what it should be, the function returns what it returned last.
func (o *AgentOptions) upstreamCA() (func() []byte, error) {
	path := o.EgressUpstreamCA
	if path == "" {
		return func() []byte { return nil }, nil
	}
	last, err := readCertificates(path)
	if err != nil {
		return nil, fmt.Errorf("--egress-upstream-ca: %w", err)
	}
	var mu sync.Mutex
	logged := ""
	return func() []byte {
		now, err := readCertificates(path)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			last, logged = now, ""
		case err.Error() != logged:
			logged = err.Error()
			ctrl.Log.Error(err, "The file of --egress-upstream-ca cannot be used; bundles keep what it held before")
		}
		return last
	}, nil
}

func readCertificates(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, cabundle.MaxSize+1))
	if err == nil {
		err = cabundle.Check(data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}
