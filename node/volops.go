package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
)

// info describes a volume by what is known here.
func (n *Node) info(v *vol) VolumeInfo {
	i := VolumeInfo{Name: v.name, Right: v.right(), Owner: hex.EncodeToString(v.owner[:]), Files: -1, Bytes: -1}
	heads := n.seenTips(v.owner)
	if len(heads) == 0 {
		return i
	}
	i.Number, i.Tips = heads[0].Number, len(heads)
	if i.Tips == 1 {
		i.Tips = 0
	}
	if v.mayRead() == nil {
		if c, err := heads[0].Open(v.read); err == nil {
			i.Time = c.Time
		}
	}
	if was := n.lastSeen(v.owner); was.Of == heads[0].Hash().String() {
		i.Files, i.Bytes = was.Files, was.Bytes
	}
	return i
}

// Volumes gives the volumes that this home has a right to, in the order of their
// names. No peer is asked.
func (n *Node) Volumes(context.Context) ([]VolumeInfo, error) {
	var out []VolumeInfo
	for _, v := range n.allVols() {
		out = append(out, n.info(v))
	}
	return out, nil
}

// vacantName refuses a name that a volume of this home has already.
func (n *Node) vacantName(name string) error {
	if err := volume.CheckVolumeName(name); err != nil {
		return &Error{Code: Usage, Hint: "such as photos, or team-2", Err: err}
	}
	if _, err := n.vol(name); err == nil {
		return fail(Failed, "choose another name, or 'p2pfs volume drop "+name+"' first", "there is a volume %s", name)
	}
	return nil
}

// keepVol writes a volume into the home.
func (n *Node) keepVol(v *vol) error {
	if err := os.MkdirAll(n.home.volumesDir(), 0o700); err != nil {
		return err
	}
	if err := writeSecret(n.home.volumeFile(v.name), []byte(v.link.String()+"\n")); err != nil {
		return err
	}
	n.addVol(v)
	return nil
}

// dropVol takes a volume out of the home.
func (n *Node) dropVol(v *vol) error {
	if err := os.Remove(n.home.volumeFile(v.name)); err != nil {
		return err
	}
	if err := syncDir(n.home.volumesDir()); err != nil {
		return err
	}
	n.volumes.mu.Lock()
	defer n.volumes.mu.Unlock()
	delete(n.volumes.named, v.name)
	return nil
}

// VolumeCreate makes a volume, which is empty.
func (n *Node) VolumeCreate(ctx context.Context, name string) (VolumeInfo, error) {
	if err := n.vacantName(name); err != nil {
		return VolumeInfo{}, err
	}
	var seed volume.Seed
	rand.Read(seed[:]) // never fails
	v := newVol(name, n.linkOf(seed))
	if err := n.keepVol(v); err != nil {
		return VolumeInfo{}, err
	}
	if _, err := n.change(ctx, v, true, func(*volume.Draft, time.Time) error { return nil }); err != nil {
		return VolumeInfo{}, errors.Join(err, n.dropVol(v))
	}
	return n.info(v), nil
}

// VolumeLink gives a link to a volume, with the right "read", "verify" or
// "write".
func (n *Node) VolumeLink(_ context.Context, name, right string) (string, error) {
	v, err := n.vol(name)
	if err != nil {
		return "", err
	}
	l := volume.Link{Network: v.link.Network, Owner: v.owner}
	switch right {
	case "write":
		if err := v.mayWrite(); err != nil {
			return "", err
		}
		l = v.link
	case "read":
		if err := v.mayRead(); err != nil {
			return "", err
		}
		l.Kind, l.Key = volume.KindVolumeRead, v.read
	case "verify":
		l.Kind, l.Key = volume.KindVolumeVerify, v.verify
	default:
		return "", fail(Usage, "read, verify or write", "no right %q", right)
	}
	return l.String(), nil
}

// VolumeAdd gives a volume that exists a name in this home. With the write right
// the home may then renew, delete and grow all its packs, as if it had put them.
// A name may be given again to the same volume, with the same right or a greater
// one. The name mine is that of the home's own volume: it is given anew only as
// long as nothing was ever put from here.
func (n *Node) VolumeAdd(ctx context.Context, text, name string) (AddResult, error) {
	l, err := volume.ParseLink(text)
	switch {
	case err != nil:
		return AddResult{}, &Error{Code: Usage, Hint: "a link begins with p2pfs: and is one word; copy it whole", Err: err}
	case l.In(n.engine.network) != nil:
		return AddResult{}, fail(Refused, "ask for an invite to that network", "the link belongs to another network (%x, this is %s)", l.Network[:4], n.engine.network.Short())
	case l.Kind != volume.KindVolumeRead && l.Kind != volume.KindVolumeVerify && l.Kind != volume.KindVolumeWrite:
		return AddResult{}, fail(Usage, "'p2pfs get' fetches it", "a link to %s, not to a volume", l.Kind)
	}
	v := newVol(name, l)
	old, err := n.vol(name)
	switch {
	case name == Mine && old.owner == v.owner:
		v = old
	case name == Mine:
		if err := n.mineUnused(v); err != nil {
			return AddResult{}, err
		}
	case err == nil && old.owner == v.owner && old.link.Kind == l.Kind: // what was not found then may be now
		v = old
	case err == nil && old.owner == v.owner && old.mayWrite() != nil && (v.keys != nil || old.mayRead() != nil): // more rights than before
	default:
		if err := n.vacantName(name); err != nil {
			return AddResult{}, err
		}
	}
	t, err := n.tipsOf(ctx, v.owner)
	if err != nil {
		return AddResult{}, err
	}
	if len(t.heads) == 0 {
		return AddResult{}, fail(NotFound, "check the link, or try again when more peers are online: 'p2pfs peers'", "%s: %w", v, errNoHead)
	}
	if v.mayRead() == nil {
		if _, err := t.heads[0].Open(v.read); err != nil {
			return AddResult{}, fmt.Errorf("head %d of %s: %w", t.heads[0].Number, v, err)
		}
	} else if _, err := t.heads[0].Inventory(v.verify); err != nil {
		return AddResult{}, fmt.Errorf("head %d of %s: %w", t.heads[0].Number, v, err)
	}
	switch {
	case v == old:
	case name == Mine:
		err = n.changeMine(v)
	default:
		err = n.keepVol(v)
	}
	if err != nil {
		return AddResult{}, err
	}
	res := AddResult{}
	if v.keys != nil {
		ids, meta, err := n.packsAndKinds(ctx, v)
		if err != nil {
			return AddResult{}, err
		}
		if res.Packs, res.Lost, err = n.adopt(ctx, v, ids, meta); err != nil {
			return AddResult{}, err
		}
		if name == Mine {
			if err := n.adoptPuts(ctx, v, ids); err != nil {
				return AddResult{}, err
			}
		}
	}
	res.VolumeInfo = n.info(v)
	return res, nil
}

// packsAndKinds gives all packs of a volume, and which of them are metadata.
func (n *Node) packsAndKinds(ctx context.Context, v *vol) ([]pack.ID, map[pack.ID]bool, error) {
	ids, err := n.packsOfVol(ctx, v)
	if err != nil {
		return nil, nil, err
	}
	w, err := n.look(ctx, v)
	if err != nil {
		return nil, nil, err
	}
	m, err := n.mark(ctx, w, nil)
	if err != nil {
		return nil, nil, err
	}
	return ids, m.Meta, nil
}

// mineUnused refuses where something was put from this home.
func (n *Node) mineUnused(v *vol) error {
	if v.keys == nil {
		return fail(Usage, "give it another name", "mine is the home's own volume, which takes a write link")
	}
	old, err := n.vol(Mine)
	if err != nil {
		return err
	}
	used := len(n.seenTips(old.owner)) > 0
	for _, err := range n.engine.store.Roots(context.Background()) {
		used = used || err == nil
	}
	if used {
		return fail(Refused, "give it another name, or make a new home with 'p2pfs join INVITE'", "something was put from this home already: its own volume cannot become another")
	}
	return nil
}

// changeMine makes another volume the home's own.
func (n *Node) changeMine(v *vol) error {
	old, err := n.vol(Mine)
	if err != nil {
		return err
	}
	if err := n.engine.store.Reseal(v.keys.Catalog); err != nil {
		return err
	}
	if err := writeSecret(n.home.seedFile(), []byte(hex.EncodeToString(v.link.Seed[:])+"\n")); err != nil {
		return errors.Join(err, n.engine.store.Reseal(old.keys.Catalog))
	}
	n.addVol(v)
	return nil
}

// VolumeLog gives the heads of a volume that are kept, newest first.
func (n *Node) VolumeLog(ctx context.Context, name string) ([]HeadInfo, error) {
	v, err := n.vol(name)
	if err != nil {
		return nil, err
	}
	w, err := n.look(ctx, v)
	if err != nil {
		return nil, err
	}
	all, err := w.allPast(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]HeadInfo, 0, len(all))
	for _, p := range slices.Backward(all) {
		if p.Pin {
			continue
		}
		current := slices.ContainsFunc(w.heads, func(h *volume.Head) bool { return h.Hash() == p.Hash })
		out = append(out, HeadInfo{Number: p.Number, Hash: p.Hash.String(), Time: p.Time, Peer: peerText(p.Peer), Snapshot: p.Snapshot, Current: current})
	}
	return out, nil
}

// VolumeDrop takes a volume out of this home; with remove its content is deleted
// for everybody first, and what is left of it is empty.
func (n *Node) VolumeDrop(ctx context.Context, name string, remove bool) (PruneResult, error) {
	v, err := n.vol(name)
	if err != nil {
		return PruneResult{}, err
	}
	if name == Mine {
		return PruneResult{}, fail(Refused, "'p2pfs rm' removes what is in it", "mine is the home's own volume")
	}
	var res PruneResult
	if remove {
		if res, err = n.empty(ctx, v); err != nil || res.Partial {
			return res, err
		}
	}
	if v.keys != nil {
		root, err := n.engine.store.Root(volumeRoot(v.owner))
		if err == nil {
			_, err = n.engine.store.Disown(root)
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return res, err
		}
	}
	return res, n.dropVol(v)
}

// placeOf gives the volume and path of a place as it is now.
func (n *Node) placeOf(text string) (sought, error) {
	s, err := n.seek(text)
	switch {
	case err != nil:
		return s, err
	case s.vol == nil:
		return s, fail(Usage, "NAME:PATH names a place in a volume", "a link to %s cannot be changed", s.link.Kind)
	case s.Number > 0:
		return s, fail(Usage, "leave out the @ to change it as it is now", "the past cannot be changed")
	}
	return s, s.vol.mayWrite()
}

// Move gives what is at a place in a volume another one in it.
func (n *Node) Move(ctx context.Context, from, to string) error {
	a, err := n.placeOf(from)
	if err != nil {
		return err
	}
	b, err := n.placeOf(to)
	if err != nil {
		return err
	}
	if a.vol.owner != b.vol.owner {
		return fail(Usage, "'p2pfs get' it and 'p2pfs put' it there", "from one volume to another nothing is moved")
	}
	if a.Path == "" {
		return fail(Usage, "", "the root of a volume cannot be moved")
	}
	_, err = n.change(ctx, a.vol, true, func(d *volume.Draft, now time.Time) error { return d.Move(ctx, a.Path, b.Path, now) })
	return draftError(err)
}

// Mkdir makes a directory in a volume; with parents also those above it, and it
// may be there already.
func (n *Node) Mkdir(ctx context.Context, place string, parents bool) error {
	s, err := n.placeOf(place)
	if err != nil {
		return err
	}
	_, err = n.change(ctx, s.vol, true, func(d *volume.Draft, now time.Time) error { return d.Mkdir(ctx, s.Path, parents, now) })
	return draftError(err)
}

// draftError says with what outcome a change was refused.
func draftError(err error) error {
	switch {
	case errors.Is(err, volume.ErrExists):
		return &Error{Code: Failed, Hint: "remove it first, or choose another name", Err: err}
	case errors.Is(err, volume.ErrInto):
		return &Error{Code: Usage, Err: err}
	}
	return err
}

// removePlace takes what is at a place out of a volume. Its packs stay as long
// as a head of the history that is kept has them.
func (n *Node) removePlace(ctx context.Context, s sought) error {
	if err := s.vol.mayWrite(); err != nil {
		return err
	}
	if s.Number > 0 {
		return fail(Usage, "'p2pfs volume prune' lets go of old heads", "the past cannot be changed")
	}
	if s.Path == "" {
		return fail(Usage, "remove what is in it, or 'p2pfs volume drop --delete'", "it is the whole of %s", s.vol)
	}
	_, err := n.change(ctx, s.vol, true, func(d *volume.Draft, now time.Time) error { return d.Remove(ctx, s.Path, now) })
	return err
}

// Where a put goes.

// destination is the volume that a put goes into, and the directory in it; without
// one its directory is that of the day. A put that expires goes into none, or it
// would leave names behind that lead to nothing.
type destination struct {
	vol   *vol
	dir   string
	named bool // the user said so: else that it is in the volume is a help, no more
}

func (n *Node) targetOf(q PutRequest) (t destination, err error) {
	if q.Target == "" {
		t.vol, err = n.vol(Mine)
		t.dir = path.Join("put", n.engine.clock.Now().Format("2006-01-02"))
		return t, err
	}
	s, err := n.placeOf(q.Target)
	if err != nil {
		return t, err
	}
	if q.Expires > 0 {
		return t, fail(Usage, "leave one of both out", "what is in a volume stays until it is removed and pruned: it cannot expire")
	}
	return destination{vol: s.vol, dir: s.Path, named: true}, nil
}

// staged is a change of a volume by which what was put is in it, stored and not
// published yet.
type staged struct {
	commit *commit // nil: there is none, or it failed
	place  string  // where it is then
	same   bool    // it is there already
	failed error   // why it is not, where that does not matter much
}

// end lets others have their turn with the volume.
func (s *staged) end() {
	if s.commit != nil {
		s.commit.end()
	}
}

// publish makes the change what the volume is. It gives nil where there is none.
func (s *staged) publish(ctx context.Context, t destination) (*volume.Head, error) {
	switch {
	case s.commit == nil:
		return nil, nil
	case s.same:
		return s.commit.w.heads[0], nil
	}
	h, err := s.commit.publish(ctx, t.named)
	if err != nil && !t.named && ctx.Err() == nil {
		s.failed, err = err, nil
	}
	return h, err
}

// stage stores a change of the target's volume through p by which what was put
// is in it.
func (n *Node) stage(ctx context.Context, p *putter, t destination, r root) (s staged, err error) {
	c, err := n.begin(ctx, t.vol)
	if err == nil {
		s, err = c.stage(ctx, p, t, r)
		if err != nil || s.commit == nil {
			c.end()
		}
	}
	if err != nil && !t.named && !errors.Is(err, errWent) && ctx.Err() == nil && p.ctx.Err() == nil {
		return staged{failed: err}, nil
	}
	return s, err
}

func (c *commit) stage(ctx context.Context, p *putter, t destination, r root) (s staged, err error) {
	if err := c.live(ctx, r, t.named); err != nil {
		return staged{}, err
	}
	f := volume.Made(c.w.src, r.ref, r.entry)
	draft := volume.NewDraft(c.w.root)
	at := path.Join(t.dir, r.entry.Name)
	for try := 2; !t.named; try++ {
		there, err := draft.Find(ctx, at)
		if err != nil {
			return staged{}, err
		}
		if there == nil {
			break
		}
		if volume.Same(there, f) {
			return staged{commit: c, place: t.vol.name + ":" + at, same: true}, nil
		}
		at = path.Join(t.dir, volume.Numbered(r.entry.Name, try))
	}
	if err := draft.Put(ctx, at, f, c.now); err != nil {
		return staged{}, err
	}
	ch := &change{packs: slices.Concat(r.packs, r.kept)}
	if t.named { // the link that is printed is there as long as the pack of this head
		ch.links = []volume.Linked{{File: f, Name: r.entry.Name, Packs: ch.packs}}
	}
	if err := c.write(ctx, p, draft, t.named, ch); err != nil {
		return staged{}, err
	}
	return staged{commit: c, place: t.vol.name + ":" + at}, nil
}

// errWent tells that a pack which a put takes over from the volume has just
// been let go of.
var errWent = errors.New("what it builds on has just been removed")

// live refuses packs that are not, or will soon not be, in the volume any more. What
// a put with a name builds on is all of the volume; of what another builds on, which
// is an earlier put, nothing is removed meanwhile, whether it is in the volume or not.
func (c *commit) live(ctx context.Context, r root, named bool) error {
	if len(r.kept) == 0 {
		return nil
	}
	ids, dying, err := c.w.packs(ctx)
	if err != nil {
		return err
	}
	for _, id := range r.kept {
		if _, dead := dying[id]; dead || (named || r.found[id]) && !ids[id] {
			return fail(Failed, "put it again", "pack %s: %w", id.Short(), errWent)
		}
	}
	return nil
}

// parentPlace gives the place of the directory that a put of a tree into a volume
// would replace, as it is now, or "".
func (n *Node) parentPlace(ctx context.Context, q PutRequest) (string, error) {
	t, err := n.targetOf(q)
	if err != nil {
		return "", err
	}
	w, err := n.look(ctx, t.vol)
	if err != nil || len(w.heads) != 1 {
		return "", err
	}
	at := path.Join(t.dir, q.Name)
	f, err := w.root.Lookup(ctx, at)
	if errors.Is(err, volume.ErrNotFound) || errors.Is(err, volume.ErrNotDir) || err == nil && f.Entry().Kind != volume.DirEntry {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	h := w.heads[0]
	return volume.Place{Volume: t.vol.name, Number: h.Number, Hash: h.Hash().String(), Path: at}.String(), nil
}

// shortText names a peer by its raw ID, for people.
func shortText(raw string) string {
	s := peerText(raw)
	return s[max(0, len(s)-8):]
}

// peerText gives the text of a raw peer ID.
func peerText(raw string) string { return peer.ID(raw).String() }
