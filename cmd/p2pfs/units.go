package main

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// sizeUnits are the units of sizes, in lower case. A lone letter (10G) is not
// among them: to some it is 10^9, to others 2^30.
var sizeUnits = map[string]int64{
	"": 1, "b": 1,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "pb": 1e15, "eb": 1e18,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "pib": 1 << 50, "eib": 1 << 60,
}

// maxNumberLen bounds the digits of a size or duration.
const maxNumberLen = 32

// parseSize reads a number of bytes: 4096, 500MB, 1.5GiB. A fraction of a byte
// is cut off.
func parseSize(s string) (int64, error) {
	number, unit := cutNumber(s)
	factor, ok := sizeUnits[strings.ToLower(strings.TrimPrefix(unit, " "))]
	n, err := scale(number, factor)
	switch {
	case number == "" || !ok:
		return 0, fmt.Errorf("size %q: want a number and a unit, such as 10GiB or 500MB", s)
	case err != nil:
		return 0, fmt.Errorf("size %q: %w", s, err)
	}
	return n, nil
}

// formatSize gives a number of bytes for people.
func formatSize(n int64) string {
	if n < 0 {
		return "unknown"
	}
	return humanize.IBytes(uint64(n))
}

// count gives a number of things for people.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return strconv.Itoa(n) + " " + thing
}

// durationUnits are the units of durations.
var durationUnits = map[string]time.Duration{
	"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour,
	"d": 24 * time.Hour, "w": 7 * 24 * time.Hour,
}

// parseDuration reads a duration: 30s, 2h, 90d, 1h30m.
func parseDuration(s string) (time.Duration, error) {
	var total time.Duration
	for rest := s; ; {
		number, tail := cutNumber(rest)
		end := strings.IndexAny(tail, "0123456789.")
		if end < 0 {
			end = len(tail)
		}
		unit, ok := durationUnits[tail[:end]]
		if number == "" || !ok {
			return 0, fmt.Errorf("duration %q: want a number and a unit, such as 30s, 2h or 90d", s)
		}
		n, err := scale(number, int64(unit))
		if err != nil || time.Duration(n) > math.MaxInt64-total {
			return 0, fmt.Errorf("duration %q: %w", s, errTooLarge)
		}
		total += time.Duration(n)
		if rest = tail[end:]; rest == "" {
			return total, nil
		}
	}
}

// formatDuration gives a duration for people, exact to a tenth of its unit, and
// such that parseDuration reads it.
func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < 0:
		return "0s"
	case d >= day:
		return whole(d, time.Hour, "d", day, "h", time.Hour)
	case d >= time.Hour:
		return whole(d, time.Minute, "h", time.Hour, "m", time.Minute)
	case d >= time.Minute:
		return whole(d, time.Second, "m", time.Minute, "s", time.Second)
	case d >= time.Second:
		tenths := (d + 50*time.Millisecond) / (100 * time.Millisecond)
		if tenths%10 == 0 {
			return strconv.Itoa(int(tenths/10)) + "s"
		}
		return fmt.Sprintf("%d.%ds", tenths/10, tenths%10)
	}
	return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
}

// whole writes d, cut to a multiple of step, in two units.
func whole(d, step time.Duration, unit1 string, len1 time.Duration, unit2 string, len2 time.Duration) string {
	d -= d % step
	s := strconv.FormatInt(int64(d/len1), 10) + unit1
	if rest := d % len1; rest > 0 {
		s += strconv.FormatInt(int64(rest/len2), 10) + unit2
	}
	return s
}

// cutNumber cuts s after its leading decimal number: digits, and perhaps a
// point and more digits. The number is empty if there is none.
func cutNumber(s string) (number, rest string) {
	digits := func(i int) int {
		for i < len(s) && '0' <= s[i] && s[i] <= '9' {
			i++
		}
		return i
	}
	end := digits(0)
	if end == 0 {
		return "", s
	}
	if end < len(s) && s[end] == '.' {
		after := digits(end + 1)
		if after == end+1 {
			return "", s
		}
		end = after
	}
	return s[:end], s[end:]
}

var errTooLarge = errors.New("too large")

// scale gives number * factor, rounded down.
func scale(number string, factor int64) (int64, error) {
	if len(number) > maxNumberLen {
		return 0, errTooLarge
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, errors.New("no number")
	}
	r.Mul(r, new(big.Rat).SetInt64(factor))
	n := new(big.Int).Quo(r.Num(), r.Denom())
	if !n.IsInt64() {
		return 0, errTooLarge
	}
	return n.Int64(), nil
}

// sizeFlag is a flag, and a value in config.toml, that holds a size in bytes.
type sizeFlag int64

func (f *sizeFlag) Set(s string) (err error) {
	n, err := parseSize(s)
	*f = sizeFlag(n)
	return err
}

// UnmarshalText reads the size from config.toml.
func (f *sizeFlag) UnmarshalText(b []byte) error { return f.Set(string(b)) }

func (f *sizeFlag) String() string {
	if *f == 0 {
		return ""
	}
	return formatSize(int64(*f))
}

func (f *sizeFlag) Type() string { return "size" }

// durationFlag is a flag, and a value in config.toml, that holds a duration.
type durationFlag time.Duration

func (f *durationFlag) Set(s string) (err error) {
	d, err := parseDuration(s)
	*f = durationFlag(d)
	return err
}

// UnmarshalText reads the duration from config.toml.
func (f *durationFlag) UnmarshalText(b []byte) error { return f.Set(string(b)) }

func (f *durationFlag) String() string {
	if *f == 0 {
		return ""
	}
	return formatDuration(time.Duration(*f))
}

func (f *durationFlag) Type() string { return "duration" }
