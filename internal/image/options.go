// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	// DefaultReserve is what a pull leaves free on the disk.
	DefaultReserve = 512 << 20
	// DefaultPatience is well below what a pass may take.
	DefaultPatience = 250 * time.Millisecond
)

// Options are what a node's store works with. The zero value of a field means
// its default, where one is named.
type Options struct {
	// Dir is the folder of the archives, which must exist. What is in it is
	// the store's.
	Dir string
	// LocalDir is the folder of what file:NAME names (--local-image-dir).
	LocalDir string
	// SmolvmHome is HOME of smolvm's calls, below which is its cache of
	// archives. Empty: no cache is cleaned.
	SmolvmHome string

	// MaxBytes bounds an image (--image-max-bytes): what its manifest claims,
	// what the registry sends, and the archive, which is not compressed.
	// Default DefaultMaxBytes.
	MaxBytes int64
	// Reserve is how many bytes of the disk a pull leaves free
	// (--image-reserve-bytes); negative for none. Default DefaultReserve.
	Reserve int64
	// PullTimeout bounds the fetching of one image (--image-pull-timeout), its
	// waiting for others not included. Default DefaultPullTimeout.
	PullTimeout time.Duration
	// MaxPulls bounds the pulls at one time (--max-concurrent-pulls). Asking a
	// registry what a tag is does not count; four times as many, and at least
	// 16, may do that. Default DefaultMaxPulls.
	MaxPulls int
	// Patience is how long Get waits before it says that a pull is under way,
	// so that a quick answer costs no second pass. Zero for not at all.
	Patience time.Duration

	// Mirrors are REGISTRY=MIRROR[,MIRROR] (--image-mirror, repeatable), each
	// HOST[:PORT][/PREFIX]. Mirrors are asked in order, then the registry
	// itself. A mirror is sent its own credentials alone, and whoever it
	// serves an image to may use it.
	Mirrors []string
	// PlainHTTP are the registries and mirrors, HOST[:PORT], that are spoken
	// to without TLS (--image-plain-http). All others are spoken to with TLS,
	// whatever they redirect to, private addresses and localhost included.
	PlainHTTP []string
	// CAFile holds PEM certificates that registries are trusted by besides the
	// system's (--image-ca). It is read for every pull.
	CAFile string
	// DockerConfig is the node's own config.json (--image-docker-config), read
	// for every pull; it may be absent. Credential helpers are not run.
	DockerConfig string
	// Daemon is the node's Docker Engine; nil refuses docker-daemon:NAME.
	Daemon *Daemon

	// GCHigh and GCLow are the per cent of the filesystem in use from which
	// Collect removes archives, and down to which (--image-gc-high,
	// --image-gc-low). Defaults DefaultGCHigh, DefaultGCLow.
	GCHigh, GCLow int
	// GCMinAge is how long an archive is kept after its last use, whatever the
	// disk (--image-gc-min-age). It has to outlast the way from Get to what
	// Collect is told of as used. Default DefaultGCMinAge.
	GCMinAge time.Duration

	// Architecture is GOARCH of the node's images. Default the agent's own.
	Architecture string
	// Event is called when something happened to a pull that the Bottle with
	// this UID waits for; it must neither block nor call the store. Nil for none.
	Event func(uid, reason, message string)
	// Metrics may be nil.
	Metrics *Metrics
	Log     logr.Logger
	// Clock is for ages and backoff. Default the real one.
	Clock clock.Clock
}

// Daemon is what the store needs of the node's Docker Engine.
type Daemon struct {
	// ID returns the ID of the image; host.ErrNotFound when there is none.
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
		return errors.New("bounds of image pulls: want none below zero")
	}
	return nil
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// mirrorsOf are the mirrors by registry, as repositories' prefixes.
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
			// Any repository will do to see whether the rest is a prefix of one.
			if _, err := name.NewRepository(mirror+"/x/y", name.StrictValidation); mirror == "" || strings.Contains(mirror, ":/") || err != nil {
				return nil, fmt.Errorf("image mirror %q: %q is no HOST[:PORT][/PREFIX]", flag, mirror)
			}
			mirrors[reg.Name()] = append(mirrors[reg.Name()], mirror)
		}
	}
	return mirrors, nil
}
