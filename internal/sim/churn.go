package main

import (
	"io"
	"math"
	"math/rand/v2"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// config is a world's laws. docs/churn.md says where the figures are from.
type config struct {
	seed  uint64
	peers int

	Probe, Grace, Audit, Scrub time.Duration
	Within                     time.Duration // in which a due repair is to be done
	Found                      time.Duration // in which a bad copy is to be found, of time in which its peer is there
	Believed                   time.Duration // for how long health may claim more than there is; 0: not looked at

	Silence float64 // of questions get lost
	Churn   bool    // peers come and go for a while
	Loss    bool    // peers leave for good, disks die
	Rot     bool
	Fate    bool // zones are cut off and destroyed, the network falls in two
	Liars   int  // of 30
	Zones   int
	Rate    float64   // of all that is above, relative to docs/churn.md; 0: 1
	kinds   []float64 // shares of kinds of peers

	packs     int // how many, at most 12: in the order of planting
	threshold func(k, m int) int

	noRepair, noAudit bool
	log               io.Writer
	only              string
}

// Kinds of peers.
const (
	steady = iota
	nightly
	flapping
)

// stated is the churn of docs/churn.md.
func stated(seed uint64) config {
	return config{
		seed: seed, peers: 30,
		Probe: 12 * time.Hour, Grace: day, Audit: 8 * day, Scrub: 30 * day,
		Within: 14 * day, Found: 120 * day, Silence: 1. / 200,
		Churn: true, Loss: true, Rot: true, Fate: true, Liars: 2, Zones: 12,
		kinds: []float64{.60, .25, .15}, packs: 12,
	}
}

// settle decides what kind of peer p is, and begins its fate.
func (c *config) settle(p *peer) {
	w := p.w
	r := w.rng
	for x := r.Float64(); p.kind < len(c.kinds)-1 && x >= c.kinds[p.kind]; p.kind++ {
		x -= c.kinds[p.kind]
	}
	p.zone = r.IntN(max(c.Zones, 1))
	p.says = c.Zones > 0 && r.IntN(3) > 0
	p.little = c.Loss && r.IntN(10) == 0
	if p.n < c.peers {
		// Two of the first thirty, whichever they are: peers' places are random.
		if p.n < c.Liars*c.peers/30 {
			p.lie = truth + 1 + lie(r.IntN(int(lies)-1))
		}
	} else if r.IntN(30) < c.Liars {
		p.lie = truth + 1 + lie(r.IntN(int(lies)-1))
	}
	if c.Churn {
		switch p.kind {
		case steady:
			p.sessions(weibull(.6, 20*day), weibull(.5, 4*time.Hour))
		case nightly:
			p.nights()
		case flapping:
			p.sessions(weibull(.59, 16*time.Hour), weibull(.5, 6*time.Hour))
		}
		p.poisson(year, func() { p.absent(3*day + time.Duration(r.Int64N(int64(18*day)))) })
	}
	if c.Loss {
		life := 600 * day
		if r.IntN(5) == 0 {
			life = 60 * day
		}
		w.after(exponential(r, w.scale(life)), func() {
			if p.gone {
				return
			}
			p.die()
			w.report.Departed++
			w.after(exponential(r, day), func() { w.join() })
		})
		p.poisson(time.Duration(float64(year)/.03), func() {
			p.disk.wipe()
			w.report.DiskDeaths++
			p.absent(time.Duration(r.Int64N(int64(day))))
			p.start()
		})
	}
	if c.Rot {
		p.poisson(10*year, func() { p.rots(1 + r.IntN(8)) })
	}
}

// scale stretches a mean time by the rate of churn.
func (w *world) scale(d time.Duration) time.Duration {
	if w.cfg.Rate == 0 {
		return d
	}
	return time.Duration(float64(d) / w.cfg.Rate)
}

// weibull gives the distribution of that shape and mean.
func weibull(shape float64, mean time.Duration) func(r *rand.Rand) time.Duration {
	scale := float64(mean) / math.Gamma(1+1/shape)
	return func(r *rand.Rand) time.Duration {
		return time.Duration(min(scale*math.Pow(-math.Log(1-r.Float64()), 1/shape), float64(2*year)))
	}
}

func exponential(r *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(min(r.ExpFloat64()*float64(mean), float64(100*year)))
}

// sessions has a peer come and go.
func (p *peer) sessions(on, off func(*rand.Rand) time.Duration) {
	w := p.w
	var begin func()
	begin = func() {
		w.after(max(on(w.rng), time.Minute), func() {
			if p.gone {
				return
			}
			p.leave()
			w.after(max(off(w.rng), time.Minute), func() {
				p.back()
				if !p.gone {
					begin()
				}
			})
		})
	}
	begin()
}

// nights has a peer switched off at night.
func (p *peer) nights() {
	w := p.w
	var evening func()
	evening = func() {
		if p.gone {
			return
		}
		switch x := w.rng.Float64(); {
		case x < .1:
			p.absent(22*time.Hour + time.Duration(w.rng.Int64N(int64(time.Hour))))
		case x < .82: // four of five nights of the others
			p.absent(7*time.Hour + time.Duration(w.rng.Int64N(int64(3*time.Hour))))
		}
		w.after(day, evening)
	}
	midnight := w.t.Truncate(day) + day
	w.after(midnight-w.t-2*time.Hour+time.Duration(w.rng.Int64N(int64(2*time.Hour))), evening)
}

// absent has a peer be away for a while.
func (p *peer) absent(d time.Duration) {
	if p.gone {
		return
	}
	p.leave()
	p.w.after(d, p.back)
}

// poisson has something happen to a peer again and again, at random.
func (p *peer) poisson(mean time.Duration, do func()) {
	w := p.w
	var again func()
	again = func() {
		w.after(exponential(w.rng, w.scale(mean)), func() {
			if !p.gone {
				do()
				again()
			}
		})
	}
	again()
}

// rots damages n blocks of a peer's shards, one beside the other.
func (p *peer) rots(n int) {
	var all []*shard
	for _, id := range p.disk.order {
		all = append(all, p.disk.packs[id].shards...)
	}
	if len(all) == 0 {
		return
	}
	first := p.w.rng.IntN(len(all))
	for i := range all {
		s := all[(first+i)%len(all)]
		for row := range s.cells {
			if n--; n < 0 {
				return
			}
			if x := p.w.byPack[s.manifest.ID()]; x != nil {
				x.rot(s, row)
				p.w.report.Rotten++
			}
		}
	}
}

// fate is what happens to many peers at once.
func (w *world) fate() {
	r := w.rng
	forever := func(mean time.Duration, do func()) {
		var again func()
		again = func() { w.after(exponential(r, w.scale(mean)), func() { do(); again() }) }
		again()
	}
	cut := weibull(.6, 10*time.Hour)
	for z := range w.cfg.Zones {
		forever(year/2, func() {
			d := cut(r)
			for _, p := range w.peers {
				if p.zone == z && !p.gone {
					p.absent(d)
				}
			}
		})
		forever(200*year, func() {
			for _, p := range w.peers {
				if p.zone == z && !p.gone {
					p.disk.wipe()
					p.start()
					w.report.DiskDeaths++
				}
			}
		})
	}
	forever(year, func() {
		split := make([]bool, w.cfg.Zones)
		for i := range split {
			split[i] = r.IntN(3) == 0
		}
		w.split = split
		w.after(2*time.Hour+time.Duration(r.Int64N(int64(34*time.Hour))), func() { w.split = nil })
	})
}

// theYear is the year of docs/churn.md: its peers, its packs.
func theYear(c config) *report { return run(c, year) }

// run has a world live for some time and tells what became of it.
func run(c config, length time.Duration) *report {
	w := build(c, length)
	w.run(length)
	w.report.trace = w.trace()
	w.report.traffic = w.traffic
	return &w.report
}

// build makes that world.
func build(c config, length time.Duration) *world {
	w := newWorld(c)
	w.report.seed, w.report.Least = c.seed, 100
	if c.Fate {
		w.fate()
	}
	n := 0
	plant := func(s erasure.Scheme, blocks int) {
		x := w.add(newFixture(s, blocks, n))
		n++
		var try func()
		try = func() {
			if !x.put() {
				w.after(day/2, try)
			}
		}
		if n%2 == 1 || !c.Loss {
			try()
		} else {
			w.after(time.Duration(w.rng.Int64N(int64(length*8/10))), try)
		}
	}
	// Six of them, or all twelve, are as many of each scheme as docs/churn.md has.
	large, middle, small := erasure.Scheme{K: 8, M: 12}, erasure.Scheme{K: 4, M: 6}, erasure.Scheme{K: 2, M: 3}
	for i, s := range []erasure.Scheme{large, large, middle, small, large, large, large, large, middle, small, large, large} {
		if i < c.packs {
			plant(s, 8+8*(i%2))
		}
	}
	w.after(length/4+time.Duration(w.rng.Int64N(int64(length/4))), func() {
		if x := w.packs[0]; x.stored && !x.lost {
			x.remove()
		}
	})
	const often = 6 * time.Hour
	w.every(often, often, func() { w.sample(often) })
	return w
}
