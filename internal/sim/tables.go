package main

import (
	"fmt"
	"io"
	"math"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/repair"
)

// threshold gives the rule that repair is due at k and that share of m.
func threshold(share float64) func(k, m int) int {
	return func(k, m int) int { return min(k+m-1, k+int(math.Ceil(share*float64(m)))) }
}

// perYear is how many bytes repairs moved for each that is stored, a year.
func (t *total) perYear() float64 { return float64(t.Moved) / (t.ByteDays / 365) }

// curve writes loss and traffic against threshold and grace.
func curve(to io.Writer, seeds int, rate float64) {
	graces := []time.Duration{time.Minute, 12 * time.Hour, day, 2 * day, 4 * day}
	fmt.Fprintf(to, "%d seeds of a year a cell, %g times the losses of docs/churn.md, %d packs a seed, probes every 12 hours.\n", seeds, rate, 6)
	fmt.Fprintf(to, "In a cell: bytes moved by repairs for each byte stored and year; packs lost; the least live − k seen.\n\n")
	fmt.Fprint(to, "| threshold, at 8 of 20 |")
	for _, g := range graces {
		fmt.Fprintf(to, " grace %v |", hours(g))
	}
	fmt.Fprint(to, "\n| --- |")
	for range graces {
		fmt.Fprint(to, " ---: |")
	}
	fmt.Fprintln(to)
	for _, share := range []float64{1. / 6, 1. / 3, .5, .75, 1} {
		rule := threshold(share)
		fmt.Fprintf(to, "| k + %.2f m: %d |", share, rule(8, 12))
		for _, g := range graces {
			t := years(1, seeds, year, func(seed uint64) config {
				c := stated(seed)
				c.packs, c.Grace, c.Rate, c.threshold = 6, g, rate, rule
				return c
			}, nil)
			fmt.Fprintf(to, " %.2f; %d; %d |", t.perYear(), t.LostPacks+t.SpoiledPacks, t.Least)
		}
		fmt.Fprintln(to)
	}
}

func hours(d time.Duration) string {
	if d < time.Hour {
		return "none"
	}
	return fmt.Sprintf("%.0f h", d.Hours())
}

// lazy writes what waiting saves.
func lazy(to io.Writer, seeds int) {
	type row struct {
		name  string
		grace time.Duration
		rule  func(k, m int) int
	}
	rows := []row{
		{"lazy: threshold k + ⌈m/2⌉, a day of grace", day, nil},
		{"grace alone: threshold n − 1, a day of grace", day, threshold(1)},
		{"threshold alone: k + ⌈m/2⌉, no grace", time.Minute, nil},
		{"eager: threshold n − 1, no grace", time.Minute, threshold(1)},
	}
	fmt.Fprintf(to, "%d seeds of a year a row, %d packs a seed, probes every 12 hours. Bytes moved by repairs for each byte stored and year.\n\n", seeds, 6)
	fmt.Fprintln(to, "| repair | peers that return, nothing else | times | the churn of docs/churn.md | times |")
	fmt.Fprintln(to, "| --- | ---: | ---: | ---: | ---: |")
	var first [2]float64
	for i, x := range rows {
		fmt.Fprintf(to, "| %s |", x.name)
		for j, losses := range []bool{false, true} {
			t := years(1, seeds, year, func(seed uint64) config {
				c := stated(seed)
				c.packs, c.Grace, c.threshold = 6, x.grace, x.rule
				if !losses {
					c.Loss, c.Rot, c.Fate, c.Liars = false, false, false, 0
				}
				return c
			}, nil)
			if i == 0 {
				first[j] = t.perYear()
			}
			fmt.Fprintf(to, " %.2f | %.1f |", t.perYear(), t.perYear()/first[j])
		}
		fmt.Fprintln(to)
	}
}

// watch writes what watching costs a node.
func watch(to io.Writer, sizes, packs []int) {
	const measured = 20 * time.Minute
	fmt.Fprintf(to, "All peers are there and nothing is to be repaired; probes every %v, audits of a shard every %v, as set by default.\n\n", repair.DefaultProbe, repair.DefaultAudit)
	fmt.Fprintln(to, "| nodes | packs a node | co-holders | probes a node and hour | other questions | KiB a node and hour, both ways |")
	fmt.Fprintln(to, "| ---: | ---: | ---: | ---: | ---: | ---: |")
	for _, n := range sizes {
		for _, held := range packs {
			w := newWorld(config{seed: 1, peers: n, Probe: repair.DefaultProbe, Grace: repair.DefaultGrace, Audit: repair.DefaultAudit, Scrub: 200 * year, Zones: n, kinds: []float64{1}})
			s := erasure.Scheme{K: 8, M: 12}
			if n < s.N() {
				s = erasure.Scheme{K: 4, M: 6}
			}
			for i := range held * n / s.N() {
				w.add(newFixture(s, 8, i)).put()
			}
			w.run(10 * time.Minute) // until everybody has asked everybody
			before := w.traffic
			w.run(w.t + measured)
			var probes, others, bytes int64
			for i := range w.traffic {
				for j := range w.traffic[i] {
					d := w.traffic[i][j].calls - before[i][j].calls
					if kind(j) == facts {
						probes += d
					} else {
						others += d
					}
					bytes += w.traffic[i][j].bytes - before[i][j].bytes
				}
			}
			peers := 0
			for _, p := range w.peers {
				peers += p.keeper.Summary().Peers
			}
			per := float64(n) * measured.Hours()
			fmt.Fprintf(to, "| %d | %d | %.1f | %.0f | %.1f | %.0f |\n", n, held, float64(peers)/float64(n),
				float64(probes)/per, float64(others)/per, 2*float64(bytes)/1024/per) // what one sends another receives
		}
	}
}
