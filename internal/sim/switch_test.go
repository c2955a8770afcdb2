package main

import (
	"slices"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/repair"
)

// What a part is for shows when it is switched off: the years fail.
func TestYearsFailWithoutAPart(t *testing.T) {
	for _, tt := range []struct {
		name string
		law  func(*config) // nil: that of docs/churn.md
		off  func(*config)
		red  func(*total) bool
	}{
		{"repair: packs are lost", nil, func(c *config) { c.noRepair = true }, func(a *total) bool {
			return a.Failed > 0 && float64(a.Spoiled) > mostSpoilt*float64(a.Seeds) && a.SpoiledPacks > 0
		}},
		{"grace: absence moves as much as loss would", nil, func(c *config) { c.Grace = time.Minute }, func(a *total) bool {
			return ratio(a.Moved, a.Destroyed) > mostMoved
		}},
		{"audits: what liars threw away and disks let rot is not found", func(c *config) {
			c.Loss, c.Fate, c.Liars = false, false, 4 // or repairs, which read, would find it
		}, func(c *config) { c.noAudit = true }, func(a *total) bool {
			return a.Failed > 0 && a.Hidden > 0
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			law := func(seed uint64) config {
				c := stated(seed)
				c.packs = 4
				if tt.law != nil {
					tt.law(&c)
				}
				return c
			}
			a := years(1, pick(4, 1), year, law, nil)
			t.Logf("with: %v", a)
			if a.Failed > 0 || tt.red(a) {
				t.Error("it failed with the part")
			}
			a = years(1, pick(4, 1), year, func(seed uint64) config {
				c := law(seed)
				tt.off(&c)
				return c
			}, nil)
			t.Logf("without: %v", a)
			if !tt.red(a) {
				t.Error("nothing failed without it")
			}
		})
	}
}

// quiet is a world in which nothing happens by itself.
func quiet(seed uint64, peers int) config {
	c := stated(seed)
	c.peers = peers
	c.Churn, c.Loss, c.Rot, c.Fate, c.Liars = false, false, false, false, 0
	return c
}

var large = erasure.Scheme{K: 8, M: 12}

// At most m shards of a pack lie in one zone, so that all identities of
// somebody who says one zone may vanish together.
func TestAZoneOfManyIdentitiesVanishes(t *testing.T) {
	for seed := range uint64(pick(8, 1)) {
		c := quiet(seed, 45)
		c.Zones = 30
		w := newWorld(c)
		w.report.Least = 100
		for i, p := range w.peers {
			if i < 20 { // as many as all who hold a pack
				p.zone, p.says, p.zoneName = 29, true, "z29"
				p.start()
			} else if p.zone == 29 {
				p.zone = 0
			}
		}
		for n := range 6 {
			if !w.add(newFixture(large, 8, n)).put() {
				t.Fatalf("seed %d: not put", seed)
			}
		}
		w.run(10 * day)
		for _, p := range w.peers[:20] {
			p.die()
		}
		w.run(40 * day)
		for _, x := range w.packs {
			if got := x.live(0, (*shard).good); got < 20 {
				t.Errorf("seed %d: pack %s: %d of 20 shards are live a month after", seed, x.id.Short(), got)
			}
		}
	}
}

// A network in two halves that repairs on both sides is one network afterwards:
// nothing is lost, and what is there twice goes away.
func TestTwoHalvesBecomeOne(t *testing.T) {
	for seed := range uint64(pick(4, 1)) {
		c := quiet(seed, 60)
		w := newWorld(c)
		w.report.Least = 100
		for n := range 6 {
			w.add(newFixture(large, 8, n)).put()
		}
		w.after(10*day, func() {
			w.split = make([]bool, c.Zones)
			for z := range w.split {
				w.split[z] = z%2 == 0
			}
		})
		w.after(30*day, func() { w.split = nil })
		w.run(30*day - time.Hour)
		twice := 0
		for _, x := range w.packs {
			twice += len(x.copies) - 20
		}
		w.run(90 * day)
		for _, x := range w.packs {
			if got := x.live(0, (*shard).good); got != 20 {
				t.Errorf("seed %d: pack %s: %d of 20 shards are live", seed, x.id.Short(), got)
			}
			if len(x.copies) > 20 {
				t.Errorf("seed %d: pack %s: %d copies of 20 shards two months after", seed, x.id.Short(), len(x.copies))
			}
		}
		if twice == 0 {
			t.Errorf("seed %d: the halves restored nothing", seed)
		}
	}
}

// A disk that dies and comes back empty with the same name is noticed although
// its peer was hardly away.
func TestADiskThatComesBackEmptyIsNoticed(t *testing.T) {
	w := newWorld(quiet(1, 30))
	x := w.add(newFixture(large, 8, 0))
	x.put()
	w.run(5 * day)
	lost := 0
	for _, s := range slices.Clone(x.copies) {
		if lost < 6 {
			lost++
			s.peer.disk.wipe()
			s.peer.start()
		}
	}
	w.run(5*day + 4*w.cfg.Probe)
	if got := x.live(0, (*shard).good); got != 20 {
		t.Errorf("%d of 20 shards are live two days after", got)
	}
}

// A pack that its owner deleted stays deleted, though a third of its holders
// were away and come back, and others send its old state again.
func TestDeletedPacksStayDeleted(t *testing.T) {
	for seed := range uint64(pick(10, 2)) {
		w := newWorld(quiet(seed, 30))
		x := w.add(newFixture(large, 8, 0))
		x.put()
		w.run(3 * day)
		for i, s := range slices.Clone(x.copies) {
			if i%3 == 0 {
				s.peer.absent(20 * day)
			}
		}
		w.run(4 * day)
		x.remove()
		w.run(4*day + time.Hour)
		old := &x.manifest.State
		for _, p := range w.peers {
			if p.online() {
				_ = p.srv.setState("", old)
			}
		}
		w.run(40 * day)
		if n := len(x.copies); n > 0 {
			t.Errorf("seed %d: %d shards are held of a pack that was deleted", seed, n)
		}
	}
}

// One that comes back and is told of its first samples that nobody has a shard
// any more, before it has asked what they hold, learns of the deletion all the
// same. (Seed 1976 of the years found that it did not.)
func TestWhoFindsNoShardLearnsOfTheDeletion(t *testing.T) {
	for seed := range uint64(pick(10, 2)) {
		w := newWorld(quiet(seed, 30))
		x := w.add(newFixture(large, 8, 0))
		x.put()
		w.run(3 * day)
		p := x.copies[3].peer
		p.absent(20 * day)
		w.after(20*day+time.Nanosecond, func() {
			for range 1000 {
				p.keeper.Audit(w.ctx)
			}
		})
		w.run(4 * day)
		x.remove()
		w.run(40 * day)
		if n := len(x.copies); n > 0 {
			t.Errorf("seed %d: %d shards are held of a pack that was deleted", seed, n)
		}
	}
}

// What one repair moves is bounded: k′ − 1 shards are read (the repairer has
// one) and the missing ones are sent.
func TestRepairMovesNoMoreThanTheBound(t *testing.T) {
	for missing := 6; missing <= 12; missing++ {
		w := newWorld(quiet(uint64(missing), 40))
		w.cfg.Silence = 0
		x := w.add(newFixture(large, 8, 0))
		x.put()
		w.run(2 * day)
		for _, s := range slices.Clone(x.copies)[:missing] {
			s.peer.die()
		}
		w.run(20 * day)
		r := w.report
		if r.Restored != missing || r.Repairs != 1 {
			t.Errorf("%d missing: %d restored in %d repairs", missing, r.Restored, r.Repairs)
		}
		if bound := int64(8-1+missing) * 4096; r.Moved > bound {
			t.Errorf("%d missing: %d bytes moved, want %d at most", missing, r.Moved, bound)
		}
	}
}

// Watching costs a question a peer, whatever the number of packs.
func TestWatchingIsFlatInThePacks(t *testing.T) {
	probes := func(packs int) int64 {
		c := quiet(1, 30)
		c.Probe, c.Grace, c.Audit = repair.DefaultProbe, repair.DefaultGrace, repair.DefaultAudit
		w := newWorld(c)
		w.cfg.Silence = 0
		for n := range packs {
			w.add(newFixture(large, 8, n)).put()
		}
		w.run(10 * time.Minute)
		before := w.traffic[watching][facts].calls
		w.run(w.t + 10*time.Minute)
		return w.traffic[watching][facts].calls - before
	}
	few, many := probes(30), probes(300)
	if many > few*21/20 {
		t.Errorf("%d probes for 30 packs, %d for 300", few, many)
	}
}
