package node

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
)

// A vol is a volume that this home has a right to.
type vol struct {
	name   string // "": it is known by its link only
	link   volume.Link
	owner  pack.Owner
	read   [32]byte     // zero without the right
	verify [32]byte     //
	keys   *volume.Keys // nil without the right to write
	busy   chan struct{}
}

func newVol(name string, l volume.Link) *vol {
	v := &vol{name: name, link: l, owner: l.Owner, busy: make(chan struct{}, 1)}
	switch l.Kind {
	case volume.KindVolumeWrite:
		keys := l.Seed.Keys()
		v.keys, v.owner, v.read, v.verify = &keys, keys.Public(), keys.Read, keys.Verify
	case volume.KindVolumeRead:
		v.read, v.verify = l.Key, volume.VerifyKey(l.Key)
	case volume.KindVolumeVerify:
		v.verify = l.Key
	}
	return v
}

// right is the name of what may be done with it.
func (v *vol) right() string {
	switch v.link.Kind {
	case volume.KindVolumeWrite:
		return "write"
	case volume.KindVolumeRead:
		return "read"
	}
	return "verify"
}

func (v *vol) String() string { return cmp.Or(v.name, "volume "+short8(v.owner)) }

// mayRead refuses those that may only verify.
func (v *vol) mayRead() error {
	if v.link.Kind == volume.KindVolumeVerify {
		return fail(Refused, "'p2pfs health' and 'p2pfs repair' work; ask its owner for a read link to see what is in it", "%s: the link gives the right to verify only", v)
	}
	return nil
}

// mayWrite refuses all others.
func (v *vol) mayWrite() error {
	if v.keys == nil {
		return fail(Refused, "ask its owner for the write link ('p2pfs volume link NAME --write')", "%s: the link gives the right to %s only", v, v.right())
	}
	return nil
}

// volumes are those of a home, by their names.
type volumes struct {
	mu    sync.Mutex
	named map[string]*vol
	locks map[pack.Owner]chan struct{} // busy of each, whatever its names
	views map[pack.Owner]*view         // as they were seen last, with one tip

	noting sync.Mutex // held while what was seen of heads is changed in the store
}

// cache keeps a view, so that what has not changed since is not read again.
func (s *volumes) cache(w *view) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.views[w.v.owner] = w
}

// cached gives a copy of the view of a volume that was kept, or nil.
func (s *volumes) cached(owner pack.Owner) *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.views[owner]
	if w == nil {
		return nil
	}
	again := *w
	return &again
}

func (h Home) volumesDir() string            { return filepath.Join(h.Config, "volumes") }
func (h Home) volumeFile(name string) string { return filepath.Join(h.volumesDir(), name) }
func (n *Node) mineLink() volume.Link        { return n.linkOf(n.seed) }
func (n *Node) linkOf(s volume.Seed) volume.Link {
	return volume.Link{Kind: volume.KindVolumeWrite, Network: n.engine.network.Short8(), Seed: s}
}

// loadVolumes reads the volumes of the home.
func (n *Node) loadVolumes() error {
	n.volumes.named = make(map[string]*vol)
	n.volumes.locks = make(map[pack.Owner]chan struct{})
	n.volumes.views = make(map[pack.Owner]*view)
	n.addVol(newVol(Mine, n.mineLink()))
	files, err := os.ReadDir(n.home.volumesDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range files {
		if volume.CheckVolumeName(f.Name()) != nil || f.Name() == Mine {
			continue
		}
		b, err := os.ReadFile(n.home.volumeFile(f.Name()))
		if err != nil {
			return err
		}
		l, err := volume.ParseLink(string(b))
		if err == nil && (l.Kind < volume.KindVolumeRead || l.Kind > volume.KindVolumeWrite) {
			err = fmt.Errorf("it is a link to %s", l.Kind)
		}
		if err != nil {
			n.log.Error("volume not read", "file", n.home.volumeFile(f.Name()), "err", err)
			continue
		}
		n.addVol(newVol(f.Name(), l))
	}
	return nil
}

// addVol makes a volume known under its name.
func (n *Node) addVol(v *vol) {
	n.volumes.mu.Lock()
	defer n.volumes.mu.Unlock()
	n.lockOf(v)
	n.volumes.named[v.name] = v
}

// lockOf gives all who know a volume one lock. The mutex of volumes is held.
func (n *Node) lockOf(v *vol) {
	if busy, ok := n.volumes.locks[v.owner]; ok {
		v.busy = busy
		return
	}
	n.volumes.locks[v.owner] = v.busy
}

// vol gives the volume of a name.
func (n *Node) vol(name string) (*vol, error) {
	n.volumes.mu.Lock()
	defer n.volumes.mu.Unlock()
	if v, ok := n.volumes.named[name]; ok {
		return v, nil
	}
	return nil, fail(NotFound, "'p2pfs volume list' shows those of this home; 'p2pfs volume add LINK "+name+"' adds one", "no volume %s", name)
}

// allVols gives the volumes of the home, by name.
func (n *Node) allVols() []*vol {
	n.volumes.mu.Lock()
	defer n.volumes.mu.Unlock()
	return slices.SortedFunc(maps.Values(n.volumes.named), func(a, b *vol) int { return cmp.Compare(a.name, b.name) })
}

// volOf gives the volume behind a link, with the best right that this home has
// to it.
func (n *Node) volOf(l volume.Link) *vol {
	v := newVol("", l)
	n.volumes.mu.Lock()
	defer n.volumes.mu.Unlock()
	for _, o := range n.volumes.named {
		if o.owner == v.owner && (o.keys != nil || o.link.Kind == l.Kind) {
			return o
		}
	}
	n.lockOf(v)
	return v
}

// ownerKey gives the key that signs the packs of an owner, nil where this home
// does not have it.
func (n *Node) ownerKey(owner pack.Owner) *volume.Keys {
	n.volumes.mu.Lock()
	defer n.volumes.mu.Unlock()
	for _, v := range n.volumes.named {
		if v.owner == owner && v.keys != nil {
			return v.keys
		}
	}
	return nil
}

// sought is what the text of a source names: what a link leads to, with path in
// it, or a place in a volume.
type sought struct {
	link volume.Link
	path string

	vol *vol // nil: it is the link
	volume.Place
}

// seek reads the text of a source.
func (n *Node) seek(text string) (s sought, err error) {
	if volume.IsPlace(text) {
		if s.Place, err = volume.ParsePlace(text); err != nil {
			return s, &Error{Code: Usage, Hint: "NAME:PATH, or NAME@N:PATH for the past; a local file of that name is ./" + text, Err: err}
		}
		s.vol, err = n.vol(s.Volume)
		return s, err
	}
	link, path, _ := volume.CutPath(text)
	path = strings.Trim(path, "/")
	l, err := volume.ParseLink(link)
	if err != nil {
		return s, &Error{Code: Usage, Hint: "a link begins with p2pfs: and is one word; copy it whole", Err: err}
	}
	if l.In(n.engine.network) != nil {
		return s, fail(Refused, "use --home of a node in that network, or ask for an invite to it",
			"the link belongs to another network (%x, this is %s)", l.Network[:4], n.engine.network.Short())
	}
	switch l.Kind {
	case volume.KindVolumeRead, volume.KindVolumeWrite, volume.KindVolumeVerify:
		if s.Place, err = volume.ParsePlace("link:" + path); err != nil {
			return s, &Error{Code: Usage, Err: err}
		}
		s.vol = n.volOf(l)
		return s, nil
	case volume.KindTree:
	default:
		if path != "" {
			return s, fail(Usage, "only a link to a tree or a volume has paths", "a path after a link to %s", l.Kind)
		}
	}
	s.link, s.path = l, path
	return s, nil
}

// view is a volume as it is: its tips, and the tree that they are together.
type view struct {
	v        *vol
	heads    []*volume.Head       // tips, that of the highest number first
	unkept   []*volume.Head       // those of them that no keeper has
	contents []volume.HeadContent // of the tips
	past     [][]volume.Past      // what led to each of them, in order
	src      volume.Source
	root     *volume.File // nil: no head was ever made

	ids   []pack.ID // all packs, once they were asked for; so dying
	dying []volume.DyingPack
}

// packs gives all packs of the volume, and since when those of them are dying
// that are.
func (w *view) packs(ctx context.Context) (ids map[pack.ID]bool, dying map[pack.ID]time.Time, err error) {
	if w.ids == nil {
		var all []pack.ID
		var dead []volume.DyingPack
		for _, c := range w.contents {
			list, err := volume.ReadInventory(ctx, w.src, c.Inventory)
			if err != nil {
				return nil, nil, fmt.Errorf("packs of %s: %w", w.v, err)
			}
			all = append(all, list...)
			if c.Dying == (pack.Ref{}) {
				continue
			}
			gone, err := volume.ReadDying(ctx, w.src, c.Dying)
			if err != nil {
				return nil, nil, fmt.Errorf("packs of %s: %w", w.v, err)
			}
			dead = append(dead, gone...)
		}
		w.ids, w.dying = all, dead
	}
	ids = make(map[pack.ID]bool, len(w.ids))
	for _, id := range w.ids {
		ids[id] = true
	}
	dying = make(map[pack.ID]time.Time, len(w.dying))
	for _, d := range w.dying {
		dying[d.ID] = d.Since
	}
	return ids, dying, nil
}

// tipsKey is the note under which the heads of a volume are remembered that
// were seen last: no reader goes back behind them.
func tipsKey(owner pack.Owner) string { return fmt.Sprintf("tips/%x", owner[:]) }

// seen is what is remembered of a volume.
type seen struct {
	Heads [][]byte `json:"heads"`           // the tips that were seen last
	Of    string   `json:"of,omitempty"`    // the hash of the head whose tree has
	Files int64    `json:"files,omitempty"` // so many entries that are no directories
	Bytes int64    `json:"bytes,omitempty"` // with so much content
}

// lastSeen gives what is remembered of a volume.
func (n *Node) lastSeen(owner pack.Owner) (s seen) {
	b, err := n.store.Get(tipsKey(owner))
	if err != nil {
		return s
	}
	if err := json.Unmarshal(b, &s); err != nil {
		n.log.Warn("remembered heads are damaged", "volume", short8(owner), "err", err)
	}
	return s
}

// seenTips gives the heads of a volume that were seen last.
func (n *Node) seenTips(owner pack.Owner) []*volume.Head {
	heads, err := n.engine.decodeHeads(owner, n.lastSeen(owner).Heads)
	if err != nil {
		n.log.Warn("remembered heads are damaged", "volume", short8(owner), "err", err)
	}
	return heads
}

// rememberTips keeps heads of a volume that were seen, and gives them with those
// that were remembered before and that none follows: what another command of
// this home has seen or made meanwhile is not forgotten. root is what the tree of
// the one head has, if that is known.
func (n *Node) rememberTips(owner pack.Owner, heads []*volume.Head, root *volume.Entry) ([]*volume.Head, error) {
	n.volumes.noting.Lock()
	defer n.volumes.noting.Unlock()
	was := n.lastSeen(owner)
	tips := volume.Tips(append(n.seenTips(owner), heads...))
	now := seen{Heads: encodeHeads(tips)}
	if len(tips) == 1 {
		switch hash := tips[0].Hash(); {
		case was.Of == hash.String():
			now.Of, now.Files, now.Bytes = was.Of, was.Files, was.Bytes
		case root != nil && len(heads) == 1 && heads[0].Hash() == hash:
			now.Of, now.Files, now.Bytes = hash.String(), root.Files, root.Bytes
		}
	}
	if reflect.DeepEqual(was, now) {
		return tips, nil
	}
	b, err := json.Marshal(now)
	if err == nil {
		err = n.store.Set(tipsKey(owner), b)
	}
	return tips, err
}

// tipsOf gives the tips of a volume by all that can be known now. There are none
// where its first head has not been made yet.
func (n *Node) tipsOf(ctx context.Context, owner pack.Owner) (t tips, err error) {
	known := n.seenTips(owner)
	t, err = n.engine.tips(ctx, owner, known)
	if ctx.Err() != nil {
		return tips{}, context.Cause(ctx)
	}
	if t.asked == 0 {
		if len(t.heads) == 0 {
			return tips{}, fail(NoPeers, "start a node of this network, or check that this machine reaches one: 'p2pfs peers'", "no peer that keeps heads answers: %w", cmp.Or(err, errNoHead))
		}
		n.log.Warn("no peer that keeps heads answers: what was seen last counts", "volume", short8(owner), "err", err)
	}
	if t.heads, err = n.rememberTips(owner, t.heads, nil); err != nil {
		n.log.Warn("heads not remembered", "volume", short8(owner), "err", err)
	}
	return t, nil
}

// look opens a volume as it is now, or in the past.
func (n *Node) look(ctx context.Context, v *vol) (*view, error) {
	if err := v.mayRead(); err != nil {
		return nil, err
	}
	t, err := n.tipsOf(ctx, v.owner)
	if err != nil {
		return nil, err
	}
	if w := n.volumes.cached(v.owner); w != nil && len(t.heads) == 1 && w.heads[0].Hash() == t.heads[0].Hash() {
		w.v, w.unkept = v, t.unkept
		return w, nil
	}
	w := &view{v: v, src: source{n.engine}, unkept: t.unkept}
	for _, h := range t.heads {
		c, err := h.Open(v.read)
		if err != nil {
			return nil, fmt.Errorf("head %d of %s: %w", h.Number, v, err)
		}
		w.heads, w.contents = append(w.heads, h), append(w.contents, c)
	}
	w.src = n.headSource(ctx, w.contents)
	if len(w.heads) > 1 {
		if err := n.untangle(ctx, w); err != nil {
			return nil, err
		}
	}
	if len(w.heads) == 0 {
		return w, nil
	}
	if w.root, err = volume.OpenEntry(ctx, w.src, w.contents[0].Root); err != nil {
		return nil, fmt.Errorf("head %d of %s: %w", w.heads[0].Number, v, err)
	}
	for i := 1; i < len(w.heads); i++ {
		draft, conflicts, err := n.merge(ctx, w, i)
		if err != nil {
			return nil, err
		}
		if len(conflicts) > 0 {
			n.log.Info("volume has conflicts", "volume", short8(v.owner), "paths", len(conflicts))
		}
		if err := w.melt(ctx, draft); err != nil {
			return nil, err
		}
	}
	if len(w.heads) == 1 {
		kept := *w
		n.volumes.cache(&kept)
		e := w.root.Entry()
		if _, err := n.rememberTips(v.owner, w.heads, &e); err != nil {
			n.log.Warn("heads not remembered", "volume", short8(v.owner), "err", err)
		}
	}
	return w, nil
}

// wholeHead is the length in bytes of packs of heads up to which they are fetched
// whole: root, history, inventory and small directories are all in there.
const wholeHead = 1 << 20

// headSource gives where a volume is read from: what stands in the packs of its
// heads is fetched at one go, where that is little.
func (n *Node) headSource(ctx context.Context, contents []volume.HeadContent) volume.Source {
	m := &molten{src: source{n.engine}, packs: make(map[pack.ID][]byte)}
	for _, c := range contents {
		id := c.Root.Pack
		k, err := n.engine.locate(ctx, id, effort{})
		if err != nil || k.geometry.Len > wholeHead {
			continue // who reads it is told
		}
		r, err := m.src.Open(ctx, id, 0, k.geometry.Len)
		if err != nil {
			continue
		}
		if b, err := r.Bytes(ctx, 0, k.geometry.Len); err == nil {
			m.packs[id] = bytes.Clone(b)
		}
		r.Close()
	}
	return m
}

// history gives what led to the i-th tip, without itself.
func (w *view) history(ctx context.Context, i int) ([]volume.Past, error) {
	if w.past == nil {
		w.past = make([][]volume.Past, len(w.heads))
	}
	ref := w.contents[i].History
	if w.past[i] != nil || ref == (pack.Ref{}) {
		return w.past[i], nil
	}
	past, err := volume.ReadHistory(ctx, w.src, ref)
	if err != nil {
		return nil, fmt.Errorf("history of %s: %w", w.v, err)
	}
	w.past[i] = past
	return past, nil
}

// pastOf gives the i-th tip as a part of the history.
func (w *view) pastOf(i int) volume.Past {
	c := w.contents[i]
	return volume.Past{
		Number: w.heads[i].Number, Hash: w.heads[i].Hash(), Time: c.Time, Snapshot: c.Snapshot, Peer: c.Peer, Root: c.Root,
		Parents: w.heads[i].Parents,
	}
}

func comparePast(a, b volume.Past) int {
	return cmp.Or(cmp.Compare(a.Number, b.Number), bytes.Compare(a.Hash[:], b.Hash[:]))
}

// allPast gives what is kept of the history of all tips, with the tips.
func (w *view) allPast(ctx context.Context) ([]volume.Past, error) {
	var all []volume.Past
	for i := range w.heads {
		past, err := w.history(ctx, i)
		if err != nil {
			return nil, err
		}
		all = append(append(all, past...), w.pastOf(i))
	}
	slices.SortStableFunc(all, comparePast)
	var out []volume.Past
	for _, p := range all {
		if last := len(out) - 1; last < 0 || comparePast(out[last], p) != 0 {
			out = append(out, p)
		} else if !slices.Equal(out[last].Parents, p.Parents) { // one tip keeps more of the history than another
			out[last].Parents = volume.FewParents(all, slices.Concat(out[last].Parents, p.Parents))
		}
	}
	return out, nil
}

// untangle takes out the tips that are in the history of another, which the
// heads themselves need not tell where there are very many writers.
func (n *Node) untangle(ctx context.Context, w *view) error {
	gone := make(map[volume.HeadHash]bool)
	for i := range w.heads {
		past, err := w.history(ctx, i)
		if err != nil {
			return err
		}
		for _, p := range past {
			gone[p.Hash] = true
		}
	}
	kept := &view{v: w.v, src: w.src, unkept: w.unkept}
	for i, h := range w.heads {
		if !gone[h.Hash()] {
			kept.heads, kept.contents, kept.past = append(kept.heads, h), append(kept.contents, w.contents[i]), append(kept.past, w.past[i])
		}
	}
	*w = *kept
	return nil
}

// merge gives what the tree of a view and the i-th tip are together.
func (n *Node) merge(ctx context.Context, w *view, i int) (*volume.Draft, []string, error) {
	theirs, err := volume.OpenEntry(ctx, w.src, w.contents[i].Root)
	if err != nil {
		return nil, nil, fmt.Errorf("head %d of %s: %w", w.heads[i].Number, w.v, err)
	}
	base, err := n.base(ctx, w, i)
	if err != nil {
		return nil, nil, err
	}
	c := w.contents[i]
	return volume.Merge(ctx, base, w.root, theirs, func(name string) string {
		return volume.ConflictName(name, shortText(c.Peer), c.Time)
	})
}

// melt makes a draft the tree of a view, in memory.
func (w *view) melt(ctx context.Context, d *volume.Draft) (err error) {
	w.src, w.root, err = melt(ctx, w.src, d)
	return err
}

// melt writes a draft of a tree, in memory.
func melt(ctx context.Context, src volume.Source, d *volume.Draft) (volume.Source, *volume.File, error) {
	var seed volume.Seed
	rand.Read(seed[:]) // never fails
	keys := seed.Keys()
	m := &molten{src: src, owner: keys.Public(), packs: make(map[pack.ID][]byte)}
	written, err := volume.WriteVolume(ctx, m, &keys, d, volume.Commit{}, volume.Options{})
	if err != nil {
		return nil, nil, err
	}
	root, err := volume.OpenEntry(ctx, m, written.Root)
	return m, root, err
}

// molten keeps packs in memory, before others.
type molten struct {
	src   volume.Source
	owner pack.Owner
	mu    sync.Mutex
	packs map[pack.ID][]byte
}

// PutPack keeps a pack.
func (m *molten) PutPack(_ context.Context, data []byte, _ bool, release func()) (pack.ID, error) {
	id := pack.IDOf(m.owner, pack.NewContent(data).Hash())
	m.mu.Lock()
	m.packs[id] = bytes.Clone(data)
	m.mu.Unlock()
	release()
	return id, nil
}

// Lists gives what is remembered of lists in the packs before which it is.
func (m *molten) Lists() *volume.Lists { return volume.ListsOf(m.src) }

// Wait has nothing to wait for.
func (m *molten) Wait(context.Context) error { return nil }

// Open gives a part of a pack that is kept, or of another.
func (m *molten) Open(ctx context.Context, id pack.ID, off, n int) (volume.Range, error) {
	m.mu.Lock()
	b, ok := m.packs[id]
	m.mu.Unlock()
	if !ok {
		return m.src.Open(ctx, id, off, n)
	}
	if off < 0 || n < 0 || off+n > len(b) {
		return nil, fmt.Errorf("pack %s: range %d+%d: %w", id.Short(), off, n, pack.ErrCorrupt)
	}
	return moltenRange(b), nil
}

type moltenRange []byte

func (r moltenRange) Bytes(_ context.Context, off, n int) ([]byte, error) {
	if off < 0 || n < 0 || off+n > len(r) {
		return nil, fmt.Errorf("range %d+%d: %w", off, n, pack.ErrCorrupt)
	}
	return r[off : off+n], nil
}

func (moltenRange) Close() {}

// at opens what a place names: now or in the past.
func (n *Node) at(ctx context.Context, s sought) (root, at *volume.File, w *view, err error) {
	if w, err = n.look(ctx, s.vol); err != nil {
		return nil, nil, nil, err
	}
	root, at, err = w.at(ctx, s.Place)
	return root, at, w, err
}

// at opens what a place names in the volume as it was looked at.
func (w *view) at(ctx context.Context, p volume.Place) (root, at *volume.File, err error) {
	if w.root == nil {
		return nil, nil, fail(NotFound, "put something into it", "%s has nothing in it yet", w.v)
	}
	root = w.root
	if p.Number > 0 {
		x, err := w.find(ctx, p)
		if err != nil {
			return nil, nil, err
		}
		if root, err = volume.OpenEntry(ctx, w.src, x.Root); err != nil {
			return nil, nil, err
		}
	}
	at, err = root.Lookup(ctx, p.Path)
	return root, at, err
}

// find gives the head that a place names.
func (w *view) find(ctx context.Context, p volume.Place) (volume.Past, error) {
	all, err := w.allPast(ctx)
	if err != nil {
		return volume.Past{}, err
	}
	var found []volume.Past
	for _, x := range all {
		if x.Number == p.Number && !x.Pin && strings.HasPrefix(x.Hash.String(), p.Hash) {
			found = append(found, x)
		}
	}
	switch len(found) {
	case 0:
		return volume.Past{}, fail(NotFound, "'p2pfs volume log "+w.v.name+"' shows those that are kept", "%s has no head %d", w.v, p.Number)
	case 1:
		return found[0], nil
	}
	return volume.Past{}, fail(Usage, fmt.Sprintf("say which: %s@%d-%s:", w.v.name, p.Number, found[0].Hash.Short()), "%s has %d heads with the number %d", w.v, len(found), p.Number)
}

// volumeRoot is the ID under which a volume stands in the catalog.
func volumeRoot(owner pack.Owner) store.RootID { return store.RootOf(pack.ID(owner), 0) }

// packsOfVol gives all packs of a volume, those of its history among them.
func (n *Node) packsOfVol(ctx context.Context, v *vol) ([]pack.ID, error) {
	t, err := n.tipsOf(ctx, v.owner)
	if err != nil {
		return nil, err
	}
	if len(t.heads) == 0 {
		return nil, fail(NotFound, "", "%s has no head yet: %w", v, errNoHead)
	}
	all := make(map[pack.ID]bool)
	for _, h := range t.heads {
		ref, err := h.Inventory(v.verify)
		if err != nil {
			return nil, fmt.Errorf("head %d of %s: %w", h.Number, v, err)
		}
		ids, err := volume.ReadInventory(ctx, source{n.engine}, ref)
		if err != nil {
			return nil, fmt.Errorf("head %d of %s: %w", h.Number, v, err)
		}
		for _, id := range ids {
			all[id] = true
		}
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) }), nil
}
