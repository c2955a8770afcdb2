package main

import (
	"math"
	"testing"
	"time"
)

func TestParseSize(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		want int64 // -1: refused
	}{
		{"0", 0}, {"1", 1}, {"4096B", 4096}, {"10GiB", 10 << 30}, {"500MB", 500e6}, {"1.5kib", 1536},
		{"1 KB", 1000}, {"0.1B", 0}, {"9223372036854775807", math.MaxInt64}, {"7.999999999999999999EiB", math.MaxInt64 - 1},
		{"9007199254740993B", 9007199254740993}, // one that a float64 has not
		{"", -1}, {"GiB", -1}, {"10G", -1}, {"-1", -1}, {"+1", -1}, {"1e3", -1}, {"1.", -1}, {".5GiB", -1},
		{"8EiB", -1}, {"9223372036854775808", -1}, {"1  GiB", -1}, {"1GiB ", -1}, {"0x10", -1}, {"1_000", -1}, {"NaN", -1},
		{"000000000000000000000000000000001", -1},
	} {
		got, err := parseSize(c.name)
		if err != nil {
			got = -1
		}
		if got != c.want && !(c.name == "7.999999999999999999EiB" && got > math.MaxInt64-16) {
			t.Errorf("%q: got %d, %v; want %d", c.name, got, err, c.want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for _, c := range []struct {
		name string
		want time.Duration // -1: refused
	}{
		{"30s", 30 * time.Second}, {"2h", 2 * time.Hour}, {"90d", 90 * day}, {"1w", 7 * day}, {"0s", 0},
		{"1h30m", 90 * time.Minute}, {"1d12h", 36 * time.Hour}, {"1.5h", 90 * time.Minute}, {"250ms", 250 * time.Millisecond},
		{"", -1}, {"1", -1}, {"s", -1}, {"-1s", -1}, {"1y", -1}, {"1 h", -1}, {"1h ", -1}, {"1h1", -1},
		{"106752d", -1}, {"106751d23h48m", -1}, {"99999999999999999999s", -1},
	} {
		got, err := parseDuration(c.name)
		if err != nil {
			got = -1
		}
		if got != c.want {
			t.Errorf("%q: got %v, %v; want %v", c.name, got, err, c.want)
		}
	}
}

func TestFormatDuration(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		d    time.Duration
		want string
	}{
		{-time.Second, "0s"}, {0, "0ms"}, {250 * time.Millisecond, "250ms"}, {1500 * time.Millisecond, "1.5s"}, {30 * time.Second, "30s"},
		{59999 * time.Millisecond, "60s"}, {90 * time.Second, "1m30s"}, {2 * time.Hour, "2h"}, {100 * time.Minute, "1h40m"},
		{7 * 24 * time.Hour, "7d"}, {36*time.Hour + time.Minute, "1d12h"},
	} {
		if got := formatDuration(c.d); got != c.want {
			t.Errorf("%v: got %s, want %s", c.d, got, c.want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"10GiB", "500MB", "1.5 kib", "0", "", "8EiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseSize(s)
		if err != nil {
			return
		}
		if n < 0 {
			t.Fatalf("%q: got %d", s, n)
		}
		if _, err := parseSize(formatSize(n)); err != nil && n < 15<<59 { // 7.5 EiB may be written as 8
			t.Fatalf("%q: what is written for %d cannot be read: %v", s, n, err)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"30s", "2h", "90d", "1h30m", "1.5h", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDuration(s)
		if err != nil {
			return
		}
		if d < 0 {
			t.Fatalf("%q: got %v", s, d)
		}
		back, err := parseDuration(formatDuration(d))
		if err != nil || back > d+time.Second || back < d-time.Hour {
			t.Fatalf("%q: %v is written as %s, read as %v, %v", s, d, formatDuration(d), back, err)
		}
	})
}
