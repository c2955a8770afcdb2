package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
)

// A commit is a change of a volume on its way: begin takes the volume as it is,
// write stores what is new of it, publish makes it what the volume is. Until
// then nobody sees anything of it; what of it was not published goes away, for no
// holder is told that it is to stay.
type commit struct {
	n       *Node
	v       *vol
	w       *view
	keys    *volume.Keys
	looked  time.Time // when it began to look at the volume
	now     time.Time
	written volume.Written
	made    map[pack.ID]bool // packs that it has written, with those of the merges before it
	past    []volume.Past
	packs   []pack.ID // of the volume before
	dying   []volume.DyingPack
}

// begin waits for its turn with a volume and looks at it; tips that nobody has
// merged are merged first. The caller ends it with end.
func (n *Node) begin(ctx context.Context, v *vol) (*commit, error) {
	if err := v.mayWrite(); err != nil {
		return nil, err
	}
	select {
	case v.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c := &commit{n: n, v: v, keys: v.keys}
	if err := c.take(ctx); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// end lets others have their turn.
func (c *commit) end() { <-c.v.busy }

const (
	// takeTries is how often a volume is looked at again because another home
	// merges the same heads.
	takeTries = 8

	// takePause is how long it has for that, the first time; up to twice as long,
	// so that two that wait for each other fall out of step.
	takePause = 250 * time.Millisecond
)

// take looks at the volume, and merges until there is one tip. What two homes
// merge at the same time is one and the same pack, which one of them can store:
// the other looks again.
func (c *commit) take(ctx context.Context) error {
	for try := 1; ; try++ {
		err := c.takeOnce(ctx)
		if !errors.Is(err, errOvertaken) || try == takeTries {
			return err
		}
		e := c.n.engine
		pause := takePause + e.jitter(takePause)
		if err := sleep(ctx, e.clock, pause*time.Duration(try)); err != nil {
			return err
		}
	}
}

func (c *commit) takeOnce(ctx context.Context) error {
	c.looked = c.n.engine.clock.Now()
	w, err := c.n.look(ctx, c.v)
	if err != nil {
		return err
	}
	c.w = w
	if len(w.heads) == 1 && len(w.unkept) > 0 {
		// A commit that ended before anybody had taken its head, or all who had are
		// gone. Others are to see it although nothing may be otherwise now.
		if err := c.n.engine.publish(ctx, w.heads[0]); err != nil {
			return err
		}
	}
	for len(c.w.heads) > 1 {
		// What is in memory only cannot be built on: merged two by two.
		rest := *c.w
		two := &view{v: c.v, src: source{c.n.engine}, heads: rest.heads[:2:2], contents: rest.contents[:2:2]}
		if two.root, err = volume.OpenEntry(ctx, two.src, two.contents[0].Root); err != nil {
			return err
		}
		c.w = two
		draft, _, err := c.n.merge(ctx, two, 1)
		if err != nil {
			return err
		}
		snapshot := two.contents[0].Snapshot || two.contents[1].Snapshot
		if err := c.commit(ctx, draft, snapshot, nil); err != nil {
			return fmt.Errorf("merge heads %d and %d of %s: %w", two.heads[0].Number, two.heads[1].Number, c.v, err)
		}
		if len(rest.heads) == 2 {
			break
		}
		c.w = &view{v: c.v, src: two.src, heads: append(c.w.heads[:1:1], rest.heads[2:]...), contents: append(c.w.contents[:1:1], rest.contents[2:]...)}
	}
	c.now = c.n.engine.clock.Now()
	return nil
}

// commit makes a draft what the volume is, by a put of its own.
func (c *commit) commit(ctx context.Context, draft *volume.Draft, snapshot bool, ch *change) error {
	p := c.n.engine.newPutter(ctx, c.keys.Owner, nil, 0)
	defer p.end()
	return c.commitBy(ctx, p, draft, snapshot, ch)
}

// commitBy is commit with all that p has stored.
func (c *commit) commitBy(ctx context.Context, p *putter, draft *volume.Draft, snapshot bool, ch *change) error {
	err := c.write(ctx, p, draft, snapshot, ch)
	if err == nil {
		err = c.confirm(ctx, p)
	}
	if err != nil {
		return p.fail(ctx, err)
	}
	if c.made == nil {
		c.made = make(map[pack.ID]bool)
	}
	for _, id := range c.written.Packs {
		c.made[id] = true
	}
	_, err = c.publish(ctx, snapshot)
	return err
}

// confirm makes what p has stored stay. It is in the catalog before the first
// holder hears of it: of a commit that ends in between, the next prune finds by it
// what some of them keep.
func (c *commit) confirm(ctx context.Context, p *putter) error {
	var others []pack.ID // that this home has not stored before
	before := make(map[pack.ID]uint64)
	for _, pk := range p.packs {
		before[pk.id] = pk.number
		if _, err := c.n.engine.store.OwnedPack(pk.id); errors.Is(err, store.ErrNotFound) {
			others = append(others, pk.id)
		}
	}
	if err := c.own(p.packs, nil); err != nil {
		return err
	}
	err := p.confirm(ctx)
	if errors.Is(err, errOvertaken) { // they are another home's, which may not have published them yet
		return errors.Join(err, c.n.engine.store.DisownPacks(volumeRoot(c.v.owner), others))
	}
	if err != nil {
		return err
	}
	joined := slices.DeleteFunc(slices.Clone(p.packs), func(pk *placed) bool { return pk.number == before[pk.id] })
	if len(joined) == 0 {
		return nil
	}
	return c.own(joined, nil)
}

// fail ends a put that has failed, and gives the error that tells most. What was
// stored is given up, unless the caller is the one who gave up: then the same put
// again goes on with it, if it comes before holders drop it, a day after they
// heard of this one last.
func (p *putter) fail(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		p.mu.Lock()
		if p.failed != nil { // what stopped the rest
			err = p.failed
		}
		p.mu.Unlock()
	}
	p.cancel(err)
	p.wg.Wait()
	if ctx.Err() == nil {
		p.giveUp()
	}
	return err
}

// change is a change to a volume: to its tree, to its history.
type change struct {
	past  func([]volume.Past) []volume.Past // nil: it is thinned out only
	packs []pack.ID                         // that the volume has now beside those that it had and those that are written
	gone  map[pack.ID]bool                  // that it has no more
	dying []volume.DyingPack                // nil: as before
	set   bool                              // dying is what is dying now
	again []*volume.Draft                   // of what past gives: what is to stand there
	avoid map[pack.ID]bool                  // packs in which nothing is to stay of what is written anew
	links []volume.Linked                   // that are given out with it
}

// write stores what is new in a draft, through p.
func (c *commit) write(ctx context.Context, p *putter, draft *volume.Draft, snapshot bool, ch *change) error {
	if ch == nil {
		ch = &change{}
	}
	all, err := c.w.allPast(ctx)
	if err != nil {
		return err
	}
	now := c.n.engine.clock.Now()
	c.past = thin(all, now)
	if ch.past != nil {
		c.past = ch.past(all)
	}
	ids, dying, err := c.w.packs(ctx)
	if err != nil {
		return err
	}
	if ch.set {
		clear(dying)
	}
	for _, id := range ch.packs {
		ids[id] = true
		delete(dying, id)
	}
	for _, d := range ch.dying {
		dying[d.ID] = d.Since
	}
	maps.DeleteFunc(ids, func(id pack.ID, _ bool) bool { return ch.gone[id] })
	maps.DeleteFunc(dying, func(id pack.ID, _ time.Time) bool { return !ids[id] })
	c.packs = slices.SortedFunc(maps.Keys(ids), compareID)
	c.dying = make([]volume.DyingPack, 0, len(dying))
	for _, id := range slices.SortedFunc(maps.Keys(dying), compareID) {
		c.dying = append(c.dying, volume.DyingPack{ID: id, Since: dying[id]})
	}
	if ch.past == nil && len(c.w.heads) < 2 && len(c.past) >= volume.MaxHistory {
		return fail(Failed, "let go of some: 'p2pfs volume prune "+c.v.String()+" --keep-daily 30', see its help", "%s keeps %d heads, more than %d are too many", c.v, len(c.past), volume.MaxHistory)
	}
	if len(c.dying) > volume.MaxDying { // of two that are merged; the others begin to die with the next prune
		c.dying = c.dying[:volume.MaxDying]
	}
	c.written, err = volume.WriteVolume(ctx, p, c.keys, draft, volume.Commit{Packs: c.packs, Past: c.past, Dying: c.dying, Again: ch.again, Links: ch.links}, volume.Options{Avoid: ch.avoid, Lists: c.n.engine.lists})
	c.past = c.written.Past
	c.dying = slices.DeleteFunc(c.dying, func(d volume.DyingPack) bool { return slices.Contains(c.written.Packs, d.ID) }) // it was needed again
	return err
}

func compareID(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) }

// thin takes out of a history the heads that are no snapshots and old enough.
func thin(past []volume.Past, now time.Time) []volume.Past {
	keep := volume.Thin(past, now)
	return volume.Without(past, func(i int) bool { return !keep[i] && !past[i].Pin })
}

// own writes down in the catalog which packs the volume has now and had not.
func (c *commit) own(packs []*placed, more []store.OwnedPack) error {
	list := slices.Clone(more)
	for _, p := range packs {
		list = append(list, p.owned)
	}
	return c.n.ownVolume(c.v, c.written.Entry.Bytes, list)
}

// ownVolume writes packs of a volume into the catalog.
func (n *Node) ownVolume(v *vol, size int64, packs []store.OwnedPack) error {
	return n.engine.store.Own(store.Root{
		ID: volumeRoot(v.owner), Link: v.link.String(), Name: v.String(), Bytes: size, Time: n.engine.clock.Now().UnixMilli(),
	}, packs)
}

// publish makes what was written what the volume is, and all packs of it have to
// be durable. When it returns without an error as many peers know as have to.
func (c *commit) publish(ctx context.Context, snapshot bool) (*volume.Head, error) {
	self := string(c.n.engine.self)
	content := volume.HeadContent{
		Time: c.n.engine.clock.Now(), Snapshot: snapshot, Peer: self,
		Root: c.written.Root, History: c.written.History, Dying: c.written.Dying, Inventory: c.written.Inventory,
	}
	h, err := volume.NewHead(c.n.engine.network, c.keys, c.w.heads, volume.WriterOf(c.keys.Read, self), content, rand.Reader)
	if err != nil {
		return nil, err
	}
	// A writer builds each head on its last, whatever has become of that, for that
	// is how others tell that one follows the other: see [volume.Head.Follows].
	if _, err := c.n.rememberTips(c.v.owner, []*volume.Head{h}, &c.written.Entry); err != nil {
		return nil, fmt.Errorf("remember head %d of %s: %w", h.Number, c.v, err)
	}
	if err := c.n.engine.publish(ctx, h); err != nil {
		return nil, err
	}
	c.w = &view{
		v: c.v, src: c.w.src, heads: []*volume.Head{h}, contents: []volume.HeadContent{content}, past: [][]volume.Past{c.past},
		root: volume.Made(c.w.src, content.Root, c.written.Entry), ids: append(c.packs, c.written.Packs...), dying: c.dying,
	}
	c.n.volumes.cache(c.w)
	return h, nil
}

// change changes a volume: edit says what is to be otherwise in its tree. It
// gives the head that the volume has then; where nothing is to be otherwise, the
// one that it had.
func (n *Node) change(ctx context.Context, v *vol, snapshot bool, edit func(d *volume.Draft, now time.Time) error) (*volume.Head, error) {
	c, err := n.begin(ctx, v)
	if err != nil {
		return nil, err
	}
	defer c.end()
	draft := volume.NewDraft(c.w.root)
	if err := edit(draft, c.now); err != nil {
		return nil, err
	}
	if !draft.Changed() && len(c.w.heads) > 0 {
		return c.w.heads[0], nil
	}
	if err := c.commit(ctx, draft, snapshot, nil); err != nil {
		return nil, err
	}
	return c.w.heads[0], nil
}

// Growing packs of a volume needs what the catalog knows of them, which a home
// that has come by the right to write later does not have yet.

// adopt writes the packs of a volume into the catalog that are not in it: lost
// is how many of them nobody was found to hold.
func (n *Node) adopt(ctx context.Context, v *vol, ids []pack.ID, meta map[pack.ID]bool) (own, lost int, err error) {
	var missing []pack.ID
	for _, id := range ids {
		if _, err := n.engine.store.OwnedPack(id); err != nil {
			missing = append(missing, id)
		}
	}
	found := make(chan store.OwnedPack, len(missing))
	err = n.eachPack(ctx, missing, func(ctx context.Context, id pack.ID) error {
		k, err := n.engine.locate(ctx, id, effort{all: true})
		if CodeOf(err) == NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		st := &k.manifest.State
		if st.Owner != v.owner {
			return nil
		}
		found <- store.OwnedPack{
			ID: id, Meta: meta[id], Given: st.Given, Scheme: erasure.Scheme{K: st.K, M: st.M}, Number: st.Number, Expires: st.Expires,
			Len: k.geometry.Len, Content: st.Content,
		}
		return nil
	})
	close(found)
	var packs []store.OwnedPack
	for p := range found {
		packs = append(packs, p)
	}
	if err != nil {
		return 0, 0, err
	}
	if len(packs) > 0 {
		err = n.ownVolume(v, 0, packs)
	}
	return len(ids) - len(missing) + len(packs), len(missing) - len(packs), err
}

// adoptPuts writes into the catalog what the home has put whose own volume this
// one was: which packs the link of each put needs, that is. The root that a link
// leads to stands in no list, but the same entry with the same packs always
// makes the same one. That of a tree whose lists are in the pack of the root
// is not found; its link lives with those.
func (n *Node) adoptPuts(ctx context.Context, v *vol, ids []pack.ID) error {
	w, err := n.look(ctx, v)
	if err != nil || w.root == nil {
		return err
	}
	for x, err := range w.puts(ctx) {
		if err != nil {
			return err
		}
		m := volume.NewMark(w.src)
		if err := m.Tree(ctx, x.file); err != nil {
			return err
		}
		packs := slices.SortedFunc(maps.Keys(m.Packs), compareID)
		made := &molten{src: w.src, owner: v.owner, packs: make(map[pack.ID][]byte)}
		root, e, err := volume.WriteRoot(ctx, made, v.keys, x.file, x.file.Entry().Name, packs, volume.Options{})
		if err != nil {
			return err
		}
		if !slices.Contains(ids, root.Pack) {
			continue
		}
		owned, err := n.ownedPacks(append(packs, root.Pack))
		if err != nil {
			continue // some are lost: repair them, and add the volume again
		}
		if err := n.own(n.linkTo(e, root), e, "", nil, owned); err != nil {
			return err
		}
	}
	return nil
}
