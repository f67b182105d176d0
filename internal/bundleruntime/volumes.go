// SPDX-License-Identifier: Apache-2.0

package bundleruntime

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"botbottle.dev/bottle-operator/internal/bundleimage"
	"botbottle.dev/bottle-operator/internal/host"
	"botbottle.dev/bottle-operator/internal/vault"
)

// Secrets returns the folder for what only the bundle may read. It implements
// vault.Pods.Dir.
func (p *Places) Secrets(uid string) (string, error) {
	return p.volume(uid, func(place Place) string { return place.Secrets })
}

func (p *Places) volume(uid string, which func(Place) string) (string, error) {
	path := which(p.place(uid))
	if path == "" {
		return "", fmt.Errorf("bottle %s: its Pod has no such volume on this node: %w", uid, host.ErrNotFound)
	}
	return filepath.Clean(path), nil
}

// Publish copies rules into the Pod of a built-in bundle. On docker it does nothing, because
// the bundle reads the Bottle's folder itself. It makes no calls to other programs and does not
// use the disk. Without a Pod it does nothing either: a new Pod starts without rules, so its
// bundle denies everything until the next pass.
func (p *Places) Publish(uid string, rules []byte) error {
	return p.put(uid, bundleimage.RulesFile, rules)
}

// PublishUpstreamCA copies the upstream authorities from the Bottle's folder to where Publish
// copies rules.
func (p *Places) PublishUpstreamCA(uid string) error {
	if kind, err := p.Choices.Of(uid); err != nil || kind != Pod {
		return err
	}
	folder, err := p.State.Folder(uid)
	if err != nil {
		return err
	}
	ca, err := folder.UpstreamCA()
	switch {
	case err != nil:
		return err
	case ca == nil:
		return p.rules().RemoveFile(context.Background(), uid, bundleimage.UpstreamCAFile)
	}
	return p.put(uid, bundleimage.UpstreamCAFile, ca)
}

// put writes a file where the bundle of a Pod reads its rules, if there is a Pod.
func (p *Places) put(uid, name string, data []byte) error {
	if kind, err := p.Choices.Of(uid); err != nil || kind != Pod {
		return err
	}
	err := p.rules().WriteFile(context.Background(), uid, name, data) // it does not wait
	if errors.Is(err, host.ErrNotFound) {
		return nil
	}
	return err
}

// Published returns the rules that Publish gave to a Bottle's bundle; nil for none. copied is
// false if the bundle reads them in the Bottle's folder.
func (p *Places) Published(uid string) (rules []byte, copied bool) {
	if kind, err := p.Choices.Of(uid); err != nil || kind != Pod {
		return nil, false
	}
	rules, err := p.rules().ReadFile(context.Background(), uid, bundleimage.RulesFile)
	if err != nil {
		return nil, true // nobody can say that it allows anything
	}
	return rules, true
}

// rules returns the volumes from which the bundles read their rules.
func (p *Places) rules() vault.Pods {
	return vault.Pods{Dir: func(uid string) (string, error) {
		return p.volume(uid, func(place Place) string { return place.Rules })
	}}
}
