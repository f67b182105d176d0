// SPDX-License-Identifier: Apache-2.0

package setup

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"botbottle.dev/bottle-operator/internal/docker"
	"botbottle.dev/bottle-operator/internal/image"
	"botbottle.dev/bottle-operator/internal/imageuse"
)

// leastMinAge is the smallest allowed --image-gc-min-age. After the store returns
// an image and before the Bottle records it, only the image's age protects it
// from removal.
const leastMinAge = time.Minute

// ImageOptions configure the node's image store.
type ImageOptions struct {
	Mirrors, PlainHTTP, Prewarm []string
	AllowNetworks               []string
	CAFile, DockerConfig        string
	MaxBytes, Reserve           int64
	PullTimeout, GCMinAge       time.Duration
	MaxPulls, GCHigh, GCLow     int
	AllowDaemon                 bool
}

// Bind adds the flags.
func (o *ImageOptions) Bind(fs *pflag.FlagSet) {
	fs.StringArrayVar(&o.Mirrors, "image-mirror", nil, "REGISTRY=MIRROR[,MIRROR], mirrors to try in order before the registry itself; may be repeated")
	fs.StringArrayVar(&o.PlainHTTP, "image-plain-http", nil, "HOST[:PORT] of a registry or mirror to contact without TLS; may be repeated")
	fs.StringArrayVar(&o.Prewarm, "prewarm-image", nil, "image to pull when the agent starts, with the node's own credentials; may be repeated")
	fs.StringSliceVar(&o.AllowNetworks, "registry-allow-networks", nil, "CIDR[,CIDR], networks whose addresses registries may have although the agent refuses them by default: loopback, link-local, cloud metadata, multicast and the node's own; may be repeated")
	fs.StringVar(&o.CAFile, "image-ca", "", "PEM file of CA certificates to trust for registries, in addition to the system's")
	fs.StringVar(&o.DockerConfig, "image-docker-config", "/root/.docker/config.json", "Docker configuration file with the node's own registry credentials; the file need not exist")
	fs.Int64Var(&o.MaxBytes, "image-max-bytes", image.DefaultMaxBytes, "maximum size of an image or artifact in bytes, packed or unpacked; above 8 GiB, smolvm must be 1.4.0 or newer")
	fs.Int64Var(&o.Reserve, "image-reserve-bytes", image.DefaultReserve, "bytes of the disk that a pull must leave free; negative means none")
	fs.DurationVar(&o.PullTimeout, "image-pull-timeout", image.DefaultPullTimeout, "time limit for pulling one image, not counting the time that it waits for its turn")
	fs.IntVar(&o.MaxPulls, "max-concurrent-pulls", image.DefaultMaxPulls, "maximum number of images that are pulled at the same time; one namespace gets at most three quarters of them")
	fs.IntVar(&o.GCHigh, "image-gc-high", image.DefaultGCHigh, "disk usage in percent above which images that no Bottle uses are removed")
	fs.IntVar(&o.GCLow, "image-gc-low", image.DefaultGCLow, "disk usage in percent at which that removal stops")
	fs.DurationVar(&o.GCMinAge, "image-gc-min-age", image.DefaultGCMinAge, "how long an image is kept after its last use, however full the disk is; at least 1m")
	fs.BoolVar(&o.AllowDaemon, "allow-docker-daemon-images", false, "allow docker-daemon:NAME, images of the node's own Docker Engine")
}

// Validate returns an error that names every invalid flag. The store itself
// checks the remaining flags when it is opened.
func (o *ImageOptions) Validate() error {
	_, err := o.allowedNetworks()
	errs := []error{err}
	if o.MaxBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("--image-max-bytes %d: want at least 1048576", o.MaxBytes))
	}
	if o.MaxPulls < 1 || o.MaxPulls > 100 {
		errs = append(errs, fmt.Errorf("--max-concurrent-pulls %d: want 1 to 100", o.MaxPulls))
	}
	if o.PullTimeout < time.Second {
		errs = append(errs, fmt.Errorf("--image-pull-timeout %s: want at least 1s", o.PullTimeout))
	}
	if o.GCMinAge < leastMinAge {
		errs = append(errs, fmt.Errorf("--image-gc-min-age %s: want at least 1m", o.GCMinAge))
	}
	if o.GCLow < 1 || o.GCLow > o.GCHigh || o.GCHigh > 100 {
		errs = append(errs, fmt.Errorf("--image-gc-high %d, --image-gc-low %d: want 1 to 100, low at most high", o.GCHigh, o.GCLow))
	}
	return errors.Join(errs...)
}

// allowedNetworks parses --registry-allow-networks. The error names every network
// that is not valid.
func (o *ImageOptions) allowedNetworks() (out []netip.Prefix, err error) {
	var errs []error
	for _, text := range o.AllowNetworks {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("--registry-allow-networks %q: want a network such as 10.0.0.5/32 or fd00:7::/64", text))
		case p.Addr().Is4In6():
			errs = append(errs, fmt.Errorf("--registry-allow-networks %s: want the IPv4 network itself, not one written as IPv6", text))
		case p != p.Masked():
			errs = append(errs, fmt.Errorf("--registry-allow-networks %s: it has bits beyond its mask: write %s, or /%d for one address", text, p.Masked(), p.Addr().BitLen()))
		case p.Bits() == 0:
			errs = append(errs, fmt.Errorf("--registry-allow-networks %s: it names every address: name only the networks of your registries", text))
		}
		out = append(out, p)
	}
	return out, errors.Join(errs...)
}

// openImages opens the store of images of the node of p. The store calls event for
// each change in a pull that a Bottle waits for.
func (o *AgentOptions) openImages(p parts, engine *docker.Engine, event func(uid, reason, message string)) (*image.Store, error) {
	counts, err := image.NewMetrics(metrics.Registry)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	i := o.Images
	networks, err := i.allowedNetworks()
	if err != nil {
		return nil, err
	}
	opts := image.Options{
		Dir: p.dir.ImagesDir(), LocalDir: o.LocalImageDir, SmolvmHome: p.dir.SmolvmHome(), NodeAddresses: p.limits.External,
		MaxBytes: i.MaxBytes, Reserve: i.Reserve, PullTimeout: i.PullTimeout, MaxPulls: i.MaxPulls, Patience: image.DefaultPatience,
		Mirrors: i.Mirrors, PlainHTTP: i.PlainHTTP, AllowNetworks: networks, CAFile: i.CAFile, DockerConfig: i.DockerConfig,
		GCHigh: i.GCHigh, GCLow: i.GCLow, GCMinAge: i.GCMinAge,
		Event: event, Metrics: counts, Log: ctrl.Log.WithName("images"),
	}
	if i.AllowDaemon {
		opts.Daemon = &image.Daemon{ID: engine.ImageID, Save: engine.SaveImage}
	}
	store, err := image.New(opts)
	if err != nil {
		return nil, fmt.Errorf("images: %w", err)
	}
	return store, nil
}

// addImages adds the collector of unused images, and the pulls of
// --prewarm-image, to mgr.
func (o *AgentOptions) addImages(mgr ctrl.Manager, store *image.Store, users *imageuse.Users) error {
	log := ctrl.Log.WithName("images")
	collect := &collector{store: store, clock: clock.RealClock{}, log: log, used: func(ctx context.Context) (image.Used, error) {
		digests, archives, err := users.Used(ctx)
		return image.Used{Digests: digests, Archives: archives}, err
	}}
	prewarm := manager.RunnableFunc(func(ctx context.Context) error {
		if err := store.Prewarm(ctx, o.Images.Prewarm); err != nil && ctx.Err() == nil {
			log.Error(err, "Some images of --prewarm-image cannot be pulled")
		}
		return nil
	})
	return errors.Join(mgr.Add(collect), mgr.Add(prewarm))
}
