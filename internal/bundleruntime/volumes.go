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

// Publish copies rules, and the upstream authorities from the Bottle's folder, into the Pod of
// a built-in bundle. On docker it does nothing, because the bundle reads the folder itself. It
// makes no calls to other programs and needs no disk space. Without a Pod it does nothing
// either: a new Pod starts without rules, so its bundle denies everything until the next pass.
func (p *Places) Publish(uid string, rules []byte) error {
	if kind, err := p.Choices.Of(uid); err != nil || kind != Pod {
		return err
	}
	volume := p.rules()
	ctx := context.Background() // nothing below waits
	write := func(name string, data []byte) error {
		err := volume.WriteFile(ctx, uid, name, data)
		if errors.Is(err, host.ErrNotFound) {
			return nil
		}
		return err
	}
	err := write(bundleimage.RulesFile, rules)
	folder, folderErr := p.State.Folder(uid)
	if folderErr != nil {
		return errors.Join(err, folderErr)
	}
	switch ca, caErr := folder.UpstreamCA(); {
	case caErr != nil:
		return errors.Join(err, caErr)
	case ca == nil:
		return errors.Join(err, volume.RemoveFile(ctx, uid, bundleimage.UpstreamCAFile))
	default:
		return errors.Join(err, write(bundleimage.UpstreamCAFile, ca))
	}
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
