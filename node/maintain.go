package node

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

// packsAtOnce is how many packs of a source are looked at side by side.
const packsAtOnce = 4

// packsOfSource are the packs that a source consists of.
type packsOfSource struct {
	kind string       // "file", "tree", "verify", "volume", or as KindName has it
	ids  []pack.ID    // for a path in a tree those of the tree
	at   *volume.File // what it names, where that can be read
}

// sourcePacks gives the packs that a source consists of; a verify link is
// enough.
func (n *Node) sourcePacks(ctx context.Context, text string) (p packsOfSource, err error) {
	s, err := n.seek(text)
	switch {
	case err != nil:
		return p, err
	case s.vol != nil && s.vol.mayRead() != nil && s.Path == "" && s.Number == 0:
		p.kind = "volume"
		p.ids, err = n.packsOfVol(ctx, s.vol)
		return p, err
	case s.vol != nil:
		var root *volume.File
		var w *view
		if root, p.at, w, err = n.at(ctx, s); err != nil {
			return p, err
		}
		if p.kind = "volume"; root == p.at && s.Number == 0 {
			p.ids, err = n.packsOfVol(ctx, s.vol)
			return p, err
		}
		if p.kind = KindName(p.at.Entry().Kind); p.kind == "dir" {
			p.kind = "tree"
		}
		m := volume.NewMark(w.src)
		err = m.Tree(ctx, p.at)
		p.ids = slices.SortedFunc(maps.Keys(m.Packs), compareID)
		return p, err
	case s.link.Kind == volume.KindVerify:
		p.kind = "verify"
		p.ids, err = volume.ReadInventory(ctx, source{n.engine}, s.link.Root)
		return p, err
	}
	root, at, err := n.open(ctx, text)
	if err != nil {
		return p, err
	}
	p.at, p.kind = at, "file"
	if s.link.Kind == volume.KindTree {
		p.kind = "tree"
	}
	p.ids, err = root.Packs(ctx)
	return p, err
}

// Health says how safe a source is: every peer that may hold a shard of it is
// asked for a sample. With "" it tells what is known of the packs of which this
// node holds shards.
func (n *Node) Health(ctx context.Context, source string) (Health, error) {
	if source == "" {
		return n.ownHealth(), nil
	}
	src, err := n.sourcePacks(ctx, source)
	if err != nil {
		return Health{}, err
	}
	h := Health{Kind: src.kind, Levels: []HealthLevel{}, Worst: []PackHealth{}}
	var all []PackHealth
	var mu sync.Mutex
	err = n.eachPack(ctx, src.ids, func(ctx context.Context, id pack.ID) error {
		p, k, err := n.inspect(ctx, id)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, p)
		if k != nil {
			h.Bytes += int64(k.geometry.Len)
		}
		return nil
	})
	if err != nil {
		return Health{}, err
	}
	slices.SortFunc(all, func(a, b PackHealth) int {
		return cmp.Or(cmp.Compare(a.Survives, b.Survives), cmp.Compare(a.ID, b.ID))
	})
	running := make(map[string]string)
	for _, s := range n.engine.keeper.Summary().Worst {
		running[s.ID.String()] = string(s.Repair)
	}
	for i := range all {
		if r := running[all[i].ID]; r == string(repair.Running) || r == string(repair.Unplaced) {
			all[i].Repair = r
		}
		if all[i].Repair == string(repair.Running) {
			h.Repairs++
		}
	}
	h.fill(all)
	return h, nil
}

// inspect takes a sample from all who may hold a shard of a pack.
func (n *Node) inspect(ctx context.Context, id pack.ID) (PackHealth, *known, error) {
	p := PackHealth{ID: id.String(), Repair: string(repair.Lost), Survives: -1, K: 1, N: 1}
	k, err := n.engine.locate(ctx, id, effort{all: true, now: true})
	if CodeOf(err) == NotFound {
		return p, nil, nil
	}
	if err != nil {
		return p, nil, err
	}
	begun := n.engine.clock.Now()
	seen := n.engine.keeper.Inspect(ctx, k.manifest, k.claims())
	if err := ctx.Err(); err != nil {
		return p, nil, err
	}
	v := repair.Diagnose(k.geometry.K, k.geometry.M, seen)
	p.K, p.N, p.Live, p.Survives = k.geometry.K, k.geometry.N(), v.Live, v.Live-k.geometry.K
	p.Unknown, p.Verified, p.Repair = v.Counted-v.Live, begun, ""
	switch {
	case v.Lost:
		p.Repair = string(repair.Lost)
	case v.Urgent && v.Live < p.N:
		p.Repair = string(repair.Hurry)
	case v.Due && v.Live < p.N:
		p.Repair = string(repair.Pending)
	}
	return p, k, nil
}

// claims lists who says that it holds a shard for good.
func (k *known) claims() []wire.Holder {
	var out []wire.Holder
	for s, ps := range k.holders {
		for _, p := range ps {
			if k.confirmed[p] {
				out = append(out, wire.Holder{Peer: string(p), Shard: s})
			}
		}
	}
	slices.SortFunc(out, func(a, b wire.Holder) int {
		return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Peer, b.Peer))
	})
	return out
}

// fill sums up packs, which stand worst first.
func (h *Health) fill(all []PackHealth) {
	h.Packs = len(all)
	for _, p := range all {
		if n := len(h.Levels); n > 0 && h.Levels[n-1].Survives == p.Survives {
			h.Levels[n-1].Packs++
		} else {
			h.Levels = append(h.Levels, HealthLevel{p.Survives, 1})
		}
		if p.Repair == string(repair.Unplaced) {
			h.Unplaced++
		}
		if !p.Verified.IsZero() && (h.Verified.IsZero() || p.Verified.Before(h.Verified)) {
			h.Verified = p.Verified
		}
	}
	h.Worst = append(h.Worst, all[:min(len(all), maxWorst)]...)
	h.worst()
}

// maxWorst is how many packs a Health lists.
const maxWorst = 100

// worst takes over what stands for all from the worst pack.
func (h *Health) worst() {
	if len(h.Worst) > 0 {
		w := h.Worst[0]
		h.K, h.N, h.Live, h.Unknown, h.Survives = w.K, w.N, w.Live, w.Unknown, w.Survives
	}
}

// ownHealth tells what the last review saw.
func (n *Node) ownHealth() Health {
	s := n.engine.keeper.Summary()
	h := Health{Kind: "node", Packs: s.Packs, Bytes: s.Bytes, Levels: []HealthLevel{}, Worst: []PackHealth{},
		Repairs: int(n.engine.keeper.Stats.Repairs.Load()), Unplaced: s.Unplaced}
	for _, l := range s.Levels {
		h.Levels = append(h.Levels, HealthLevel(l))
	}
	for _, p := range s.Worst {
		h.Worst = append(h.Worst, PackHealth{
			ID: p.ID.String(), K: p.K, N: p.K + p.M, Live: p.Live, Unknown: p.Unknown, Survives: p.Survives(),
			Verified: p.Verified, Repair: string(p.Repair),
		})
		if !p.Verified.IsZero() && (h.Verified.IsZero() || p.Verified.Before(h.Verified)) {
			h.Verified = p.Verified
		}
	}
	h.worst()
	return h
}

// eachPack runs fn for packs, a few side by side.
func (n *Node) eachPack(ctx context.Context, ids []pack.ID, fn func(context.Context, pack.ID) error) error {
	g, asking := errgroup.WithContext(ctx)
	g.SetLimit(packsAtOnce)
	for _, id := range ids {
		g.Go(func() error {
			if err := asking.Err(); err != nil {
				return err
			}
			return fn(asking, id)
		})
	}
	err := g.Wait()
	if ctx.Err() != nil { // who was not asked is not gone
		return ctx.Err()
	}
	return err
}

// Repair checks every shard of a source now, reading all of it, and rebuilds
// what is missing up to n. No key is needed, nor a shard of it here.
func (n *Node) Repair(ctx context.Context, source string, progress func(RepairProgress)) (RepairResult, error) {
	begun := n.engine.clock.Now()
	src, err := n.sourcePacks(ctx, source)
	if err != nil {
		return RepairResult{}, err
	}
	ids := src.ids
	out := RepairResult{Packs: len(ids)}
	before := n.moved()
	var short error
	// One after the other: each has a pack and what is rebuilt of it in memory.
	for i, id := range ids {
		err := n.repairPack(ctx, id, &out)
		if ctx.Err() != nil {
			return out, ctx.Err()
		}
		if err != nil {
			short = cmp.Or(short, err)
			n.log.Warn("pack not repaired whole", "pack", id, "err", err)
		}
		if progress != nil {
			progress(RepairProgress{Done: i + 1, Total: len(ids)})
		}
	}
	out.Bytes = n.moved() - before
	out.Seconds = n.engine.clock.Now().Sub(begun).Seconds()
	out.Partial = out.Unplaced > 0 || out.Lost > 0 || short != nil
	if out.Lost > 0 {
		return out, fail(Short, "when more of their holders are online, try again", "%d of %d packs have too few shards left", out.Lost, out.Packs)
	}
	return out, nil
}

// moved is how many bytes repairs have read and sent.
func (n *Node) moved() int64 {
	s := &n.engine.keeper.Stats
	return s.RepairBytesRead.Load() + s.RepairBytesSent.Load()
}

func (n *Node) repairPack(ctx context.Context, id pack.ID, out *RepairResult) error {
	k, err := n.engine.locate(ctx, id, effort{all: true})
	if CodeOf(err) == NotFound {
		out.Lost++
		return err
	}
	if err != nil {
		return err
	}
	claims := k.claims()
	good, rebuilt, err := n.engine.keeper.Rebuild(ctx, k.manifest, claims)
	out.Checked += len(claims)
	out.Rebuilt += rebuilt
	if good < k.geometry.K {
		out.Lost++
	} else {
		out.Unplaced += k.geometry.N() - good - rebuilt
	}
	n.engine.packs.forget(id)
	return err
}

// Leave hands every shard held here over to other peers; afterwards Run
// returns nil. Where ctx ends before, the node stays.
func (n *Node) Leave(ctx context.Context, progress func(LeaveProgress)) (LeaveResult, error) {
	if n.config.Client {
		return LeaveResult{}, fail(Failed, "start it with 'p2pfs node'", "no node runs on this home: a client has nothing to hand over")
	}
	left, err := n.engine.keeper.Leave(ctx, func(done, total int, bytes int64) {
		if progress != nil {
			progress(LeaveProgress{Done: done, Total: total, Bytes: bytes})
		}
	})
	out := LeaveResult{Shards: left.Shards, Handed: left.Handed, Left: left.Shards - left.Handed, Bytes: left.Bytes}
	for _, err := range left.Errs {
		out.Reasons = append(out.Reasons, err.Error())
	}
	if err != nil {
		return out, err
	}
	n.leaveOnce.Do(func() { close(n.left) })
	return out, nil
}

// upkeep says what has been done to keep packs at their redundancy.
func (n *Node) upkeep() upkeep {
	k := n.engine.keeper
	s, c := k.Summary(), &k.Stats
	u := upkeep{
		Probes: c.Probes.Load(), Audits: c.Audits.Load(), AuditsFailed: c.AuditsFailed.Load(),
		Running: c.Repairs.Load(), Repaired: c.Repaired.Load(), RepairFailed: c.RepairsFailed.Load(),
		RepairRead: c.RepairBytesRead.Load(), RepairSent: c.RepairBytesSent.Load(), HandedOver: c.HandedOver.Load(),
		Due: s.Due, Unplaced: s.Unplaced,
	}
	u.PeersLive, u.PeersSuspected, u.PeersGone = k.Peers()
	for _, l := range s.Levels {
		u.Levels = append(u.Levels, HealthLevel(l))
	}
	return u
}

// repairConfig is what the node's settings say to its keeper.
func (c *Config) repairConfig() repair.Config {
	return repair.Config{Probe: c.Probe, Grace: c.Grace, AuditEvery: c.Audit, Rate: c.RepairRate}
}
