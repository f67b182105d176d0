// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/utils/clock"
)

// Defaults of Options.
const (
	// DefaultMaxBytes is smolvm's own limit for an image archive.
	DefaultMaxBytes    = 8 << 30
	DefaultPullTimeout = 30 * time.Minute
	DefaultMaxPulls    = 3
	DefaultGCHigh      = 85
	DefaultGCLow       = 80
	DefaultGCMinAge    = 10 * time.Minute
	// DefaultReserve is how many bytes a pull leaves free on the disk.
	DefaultReserve = 512 << 20
	// DefaultPatience is well below the time that a pass may take.
	DefaultPatience = 250 * time.Millisecond
)

// Options configure a node's store. The zero value of a field means its
// default, if one is named.
type Options struct {
	// Dir is the folder of the archives. It must exist, and only the store may
	// use it.
	Dir string
	// LocalDir is the folder in which file:NAME is looked up
	// (--local-image-dir).
	LocalDir string
	// SmolvmHome is the HOME of smolvm, which holds its cache of archives. If
	// empty, no cache is cleaned.
	SmolvmHome string

	// MaxBytes bounds an image (--image-max-bytes): what its manifest claims,
	// what the registry sends, and the archive, which is not compressed.
	// Default DefaultMaxBytes.
	MaxBytes int64
	// Reserve is how many bytes of the disk a pull leaves free
	// (--image-reserve-bytes); negative for none. Default DefaultReserve.
	Reserve int64
	// PullTimeout bounds the time to fetch one image (--image-pull-timeout).
	// The wait for other pulls does not count. Default DefaultPullTimeout.
	PullTimeout time.Duration
	// MaxPulls bounds the number of concurrent pulls (--max-concurrent-pulls).
	// It does not bound the number of references that are resolved at the same
	// time: that is four times as many, and at least 16. Default
	// DefaultMaxPulls.
	MaxPulls int
	// Patience is how long Get waits before it reports that a pull is under
	// way, so that a quick answer costs no second pass. Zero means not to wait.
	Patience time.Duration

	// Mirrors are REGISTRY=MIRROR[,MIRROR] (--image-mirror, repeatable), where
	// each is HOST[:PORT][/PREFIX]. The mirrors are tried in order, then the
	// registry itself. A mirror gets only its own credentials, and anybody whom
	// it serves an image to may use that image.
	Mirrors []string
	// PlainHTTP are the registries and mirrors, HOST[:PORT], that are accessed
	// without TLS (--image-plain-http). All others are accessed with TLS, even
	// after redirects and even at private addresses and localhost.
	PlainHTTP []string
	// AllowNetworks are networks to which the store connects even where it otherwise
	// refuses the addresses: loopback, link-local, cloud metadata, multicast and the
	// node's own (--registry-allow-networks). The networks are masked, and none of them
	// is an IPv4 network written as IPv6.
	AllowNetworks []netip.Prefix
	// NodeAddresses returns addresses of the node that none of its interfaces has,
	// such as the public address that a cloud translates. It may be nil.
	NodeAddresses func() []netip.Addr
	// CAFile holds PEM certificates that are trusted for registries in addition
	// to the system's (--image-ca). It is read for every pull.
	CAFile string
	// DockerConfig is the node's own config.json (--image-docker-config). It is
	// read for every pull and may be absent. Credential helpers are not run.
	DockerConfig string
	// Daemon is the node's Docker Engine; nil refuses docker-daemon:NAME.
	Daemon *Daemon

	// GCHigh is the use of the filesystem, in percent, at which Collect starts
	// to remove archives, and GCLow is the use at which it stops
	// (--image-gc-high, --image-gc-low). Defaults DefaultGCHigh, DefaultGCLow.
	GCHigh, GCLow int
	// GCMinAge is how long an archive is kept after its last use, however full
	// the disk is (--image-gc-min-age). It must be longer than the time between
	// Get and the moment when Collect is told that the image is in use. Default
	// DefaultGCMinAge.
	GCMinAge time.Duration

	// Architecture is the GOARCH of the node's images. Default is the agent's
	// own.
	Architecture string
	// Event is called when something happened to a pull that the Bottle with
	// this UID waits for. It must not block or call the store. It may be nil.
	Event func(uid, reason, message string)
	// Metrics may be nil.
	Metrics *Metrics
	Log     logr.Logger
	// Clock is used for ages and backoff. Default is the real clock.
	Clock clock.Clock
}

// Daemon is what the store needs of the node's Docker Engine.
type Daemon struct {
	// ID returns the ID of the image, or host.ErrNotFound if there is none.
	ID func(ctx context.Context, name string) (string, error)
	// Save returns the image in docker-save form. The caller closes it.
	Save func(ctx context.Context, id string) (io.ReadCloser, error)
}

func (o *Options) complete() error {
	set(&o.MaxBytes, DefaultMaxBytes)
	set(&o.Reserve, DefaultReserve)
	set(&o.PullTimeout, DefaultPullTimeout)
	set(&o.MaxPulls, DefaultMaxPulls)
	set(&o.GCHigh, DefaultGCHigh)
	set(&o.GCLow, DefaultGCLow)
	set(&o.GCMinAge, DefaultGCMinAge)
	set(&o.Architecture, runtime.GOARCH)
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Event == nil {
		o.Event = func(string, string, string) {}
	}
	for _, registry := range o.PlainHTTP {
		if reg, err := name.NewRegistry(registry, name.StrictValidation); err != nil || reg.Name() != registry {
			return fmt.Errorf("registry without TLS %q: want HOST[:PORT]", registry)
		}
	}
	switch {
	case !filepath.IsAbs(o.Dir):
		return fmt.Errorf("folder of images %q: want an absolute path", o.Dir)
	case o.GCLow < 0 || o.GCLow > o.GCHigh || o.GCHigh > 100:
		return fmt.Errorf("image watermarks: got high %d and low %d, want 0 to 100 with low at most high", o.GCHigh, o.GCLow)
	case o.MaxBytes < 0 || o.MaxPulls < 0 || o.PullTimeout < 0:
		return errors.New("limits of image pulls: want none below zero")
	}
	return nil
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// mirrorsOf parses the flags into the mirrors of each registry, as prefixes of
// repositories.
func mirrorsOf(flags []string) (map[string][]string, error) {
	mirrors := map[string][]string{}
	for _, flag := range flags {
		registry, list, ok := strings.Cut(flag, "=")
		reg, err := name.NewRegistry(registry)
		if !ok || err != nil || registry == "" {
			return nil, fmt.Errorf("image mirror %q: want REGISTRY=MIRROR[,MIRROR]", flag)
		}
		for mirror := range strings.SplitSeq(list, ",") {
			mirror = strings.TrimSuffix(mirror, "/")
			// Append any repository to check that mirror is a valid prefix of
			// one.
			if _, err := name.NewRepository(mirror+"/x/y", name.StrictValidation); mirror == "" || strings.Contains(mirror, ":/") || err != nil {
				return nil, fmt.Errorf("image mirror %q: %q is not HOST[:PORT][/PREFIX]", flag, mirror)
			}
			mirrors[reg.Name()] = append(mirrors[reg.Name()], mirror)
		}
	}
	return mirrors, nil
}
