// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// checkWholeNumber returns clap's check for an unsigned number up to limit.
func checkWholeNumber(limit uint64) func(string) error {
	return func(s string) error {
		if s == "" {
			return errors.New("cannot parse integer from empty string")
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, 64)
		if errors.Is(err, strconv.ErrRange) {
			return errors.New("number too large to fit in target type")
		}
		if err != nil {
			return errors.New("invalid digit found in string")
		}
		if n > limit {
			return fmt.Errorf("%d is not in 0..=%d", n, limit)
		}
		return nil
	}
}

// checkStopTimeout checks `stop --timeout`.
func checkStopTimeout(s string) error {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return fmt.Errorf("'%s' is not a whole number of seconds", s)
	}
	if n > 300 {
		return fmt.Errorf("stop timeout %ds is longer than the 300s maximum", n)
	}
	return nil
}

func checkImageReference(s string) error {
	if s == "" {
		return errors.New("image reference must not be empty")
	}
	return nil
}

func checkIPv4(s string) error {
	if a, err := netip.ParseAddr(s); err != nil || !a.Is4() {
		return errors.New("invalid IPv4 address syntax")
	}
	return nil
}

func checkCIDR(s string) error {
	_, err := parseCIDR(s)
	return err
}

// parseCIDR parses a network or an address and returns it in the form that smolvm
// stores: always with a prefix length, without leading zeroes, with host bits kept.
func parseCIDR(s string) (string, error) {
	bad := fmt.Errorf("invalid CIDR '%s': expected format like 10.0.0.0/8 or 1.1.1.1", s)
	host, bits, hasBits := strings.Cut(s, "/")
	addr, err := netip.ParseAddr(withoutZeroes(host))
	if err != nil || addr.Zone() != "" {
		return "", bad
	}
	n := uint64(addr.BitLen())
	if hasBits {
		if n, err = strconv.ParseUint(bits, 10, 8); err != nil || n > uint64(addr.BitLen()) {
			return "", bad
		}
	}
	return fmt.Sprintf("%s/%d", addr, n), nil
}

// withoutZeroes turns 192.168.044.002 into 192.168.44.2.
func withoutZeroes(host string) string {
	if strings.Contains(host, ":") {
		return host
	}
	parts := strings.Split(host, ".")
	for i, p := range parts {
		if t := strings.TrimLeft(p, "0"); len(p) > 1 && len(p) <= 3 {
			parts[i] = t
			if t == "" {
				parts[i] = "0"
			}
		}
	}
	return strings.Join(parts, ".")
}

var durationUnits = map[string]time.Duration{
	"ms": time.Millisecond, "msec": time.Millisecond,
	"s": time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
}

func checkDuration(s string) error {
	d, err := parseDuration(s)
	if err == nil && d == 0 {
		return errors.New("timeout must be greater than 0 (e.g., 5sec, 30s)")
	}
	return err
}

// parseDuration parses durations like "1h30m" and "5 sec".
func parseDuration(s string) (time.Duration, error) {
	var total time.Duration
	rest := strings.TrimSpace(s)
	if rest == "" {
		return 0, errors.New("value was empty")
	}
	for rest != "" {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if digits == 0 {
			return 0, fmt.Errorf("expected number at %d", len(s)-len(rest))
		}
		n, err := strconv.ParseInt(rest[:digits], 10, 32)
		if err != nil {
			return 0, errors.New("number is too large")
		}
		rest = strings.TrimLeft(rest[digits:], " ")
		letters := len(rest) - len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyz"))
		unit, ok := durationUnits[rest[:letters]]
		if !ok && letters == 0 {
			return 0, fmt.Errorf("time unit needed, for example %dsec or %dms", n, n)
		}
		if !ok {
			return 0, fmt.Errorf("unknown time unit %q, supported units: ns, us/µs, ms, sec, min, hours, days, weeks, months, years (and few variations)", rest[:letters])
		}
		total += time.Duration(n) * unit
		rest = strings.TrimLeft(rest[letters:], " ")
	}
	return total, nil
}

// parsePort parses "HOST:GUEST", or one port for both.
func parsePort(s string) (host, guest string, err error) {
	host, guest, ok := strings.Cut(s, ":")
	if !ok {
		guest = host
	}
	for _, p := range []struct{ side, port string }{{"host", host}, {"guest", guest}} {
		n, err := strconv.ParseUint(p.port, 10, 16)
		if err != nil {
			return "", "", fmt.Errorf("invalid port: %s", p.port)
		}
		if n == 0 {
			return "", "", fmt.Errorf("%s port 0 is not valid for VM port forwarding", p.side)
		}
	}
	return host, guest, nil
}

func checkPort(s string) error {
	_, _, err := parsePort(s)
	return err
}
