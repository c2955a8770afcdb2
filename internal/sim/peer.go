package main

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/wire"
)

// peer is a simulated node.
type peer struct {
	w    *world
	n    int
	id   string
	key  [32]byte // where it lies
	kind int
	zone int
	says bool // it says its zone
	lie  lie

	zoneName string

	away   int           // reasons why it is not there
	gone   bool          // for good
	since  time.Duration // when it was last there, if it is not
	came   time.Duration // since when it is there
	boot   uint64
	little bool          // it has hardly any space
	waited time.Duration // in the step under way
	busy   time.Duration // until when
	next   struct{ audit, scrub, review, act time.Duration }

	disk   *disk
	srv    server
	keeper *repair.Keeper
	net    *network
	dir    *directory
	rng    *rand.Rand
}

func newPeer(w *world, id string, n int) *peer {
	p := &peer{w: w, n: n, id: id, key: sha256.Sum256([]byte(id)), rng: rand.New(rand.NewPCG(w.cfg.seed, uint64(n)+1))}
	p.disk = newDisk(p)
	p.net, p.dir = &network{p}, &directory{p}
	p.srv = &honest{p}
	w.cfg.settle(p)
	if p.lie != truth {
		p.srv = &liar{honest: honest{p}, lie: p.lie}
	}
	if p.says {
		p.zoneName = fmt.Sprintf("z%d", p.zone)
	}
	p.start()
	phase := time.Duration(p.rng.Int64N(int64(w.cfg.Probe)))
	var step func()
	step = func() {
		p.tick()
		w.after(w.cfg.Probe-w.cfg.Probe/20+time.Duration(p.rng.Int64N(int64(w.cfg.Probe/10)+1)), step)
	}
	w.after(phase, step)
	return p
}

func (p *peer) online() bool { return p.away == 0 && !p.gone }

// full tells whether it takes no more shards.
func (p *peer) full() bool { return p.little && p.disk.live() >= 2 }

// start makes the keeper anew, as a restart does.
func (p *peer) start() {
	p.boot++
	c := &p.w.cfg
	conf := repair.Config{
		Self: p.id, Network: theNetwork, Zone: p.zoneName,
		Net: p.net, Dir: p.dir, Shelf: p.disk, Clock: &clock{p}, Rand: p.rng,
		Probe: c.Probe, Grace: c.Grace, AuditEvery: c.Audit, Parallel: 1, Threshold: c.threshold,
	}
	if c.log != nil {
		conf.Log = slog.New(&logger{p.w, p, c.log, c.only})
	}
	conf.Off.Repair, conf.Off.Audit = c.noRepair, c.noAudit
	p.keeper = repair.New(conf)
}

// leave is one more reason not to be there.
func (p *peer) leave() {
	if p.away++; p.away == 1 {
		p.since = p.w.t
		p.keeper.Save()
	}
}

// back takes a reason away. After every other absence the node was started
// anew.
func (p *peer) back() {
	if p.away--; p.away == 0 && !p.gone {
		p.came = p.w.t
		if p.w.rng.IntN(2) == 0 {
			p.start()
			p.w.after(time.Minute, p.tick)
		}
	}
}

// die is to be away for good.
func (p *peer) die() {
	if p.gone {
		return
	}
	if p.away == 0 {
		p.since = p.w.t
	}
	p.disk.wipe()
	p.gone = true
	p.w.there--
}

// tick is a step of the peer's life.
func (p *peer) tick() {
	w := p.w
	if !p.online() || w.t < p.busy {
		return
	}
	c, k, ctx := &w.cfg, p.keeper, w.ctx
	p.waited = 0
	if l, ok := p.srv.(*liar); ok {
		if w.t >= p.next.act {
			p.next.act = w.t + 5*day
			l.act()
		}
		return
	}
	w.phase = watching
	k.Watch(ctx)
	w.phase = reviewing
	select {
	case <-k.Dirty():
		p.next.review = 0
	default:
	}
	if w.t >= p.next.review {
		p.next.review = w.t + c.Probe*4
		if err := k.Review(ctx); err != nil {
			panic(err)
		}
	}
	w.phase = repairing
	for w.repair(p) {
	}
	w.phase = tidying
	k.Tidy(ctx)
	w.phase = auditing
	if p.next.audit == 0 {
		p.next.audit = w.t + time.Duration(p.rng.Int64N(int64(k.AuditPause())))
	}
	for n := 0; w.t >= p.next.audit && !c.noAudit; n++ {
		k.Audit(ctx)
		p.next.audit = max(p.next.audit, w.t-c.Probe) + k.AuditPause()
	}
	w.phase = scrubbing
	for packs := max(p.disk.live(), 1); w.t >= p.next.scrub; {
		k.Scrub(ctx)
		p.next.scrub = max(p.next.scrub, w.t-c.Probe) + c.Scrub/time.Duration(packs)
		p.disk.sweep()
	}
	w.phase = watching
	p.busy = w.t + p.waited
	p.waited = 0
}

// asked and told pass on to the keeper what came from others.
func (p *peer) asked(from string, ids []pack.ID) {
	var held []pack.ID
	for _, id := range ids {
		if e := p.disk.packs[id]; e != nil && len(e.shards) > 0 {
			held = append(held, id)
		}
	}
	p.keeper.Asked(from, held)
}

func (p *peer) told(from string, h wire.PackHolders) { p.keeper.Told(from, h) }
