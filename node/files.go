package node

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/member"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

// rangesAhead is how many ranges, of half a pack, a get fetches ahead of the one
// that it writes out. With what the command line has not synced yet that is less
// than 64 MiB: no more is fetched twice when a get is interrupted.
const rangesAhead = 2

// Put stores what r gives and returns its link once as many shards are
// durable on distinct peers as PutResult says. Where the result is Partial
// some are missing. Errors have the codes NoPeers, Usage, Failed.
//
// What was stored when ctx ends stays for a day: the same put again goes on with
// it, from whichever peer of the same home.
func (n *Node) Put(ctx context.Context, q PutRequest, r io.Reader, progress func(Progress)) (PutResult, error) {
	info := volume.Info{Name: q.Name, Mode: q.Mode, MTime: q.ModTime, Size: q.Size}
	return n.putRoot(ctx, q, progress, func(p *putter, keys *volume.Keys, o volume.Options) (root root, err error) {
		o.Kept = func(id pack.ID) { root.kept = append(root.kept, id) }
		root.ref, root.entry, root.packs, err = volume.WriteFile(ctx, p, keys, info, r, o)
		root.kept = slices.DeleteFunc(root.kept, func(id pack.ID) bool { return slices.Contains(root.packs, id) })
		return root, err
	})
}

// linkTo gives the link to an entry, a file's or a tree's, at a root.
func (n *Node) linkTo(e volume.Entry, root pack.Ref) volume.Link {
	if e.Kind == volume.DirEntry {
		return volume.TreeLink(n.engine.network, root)
	}
	return volume.FileLink(n.engine.network, root)
}

// root is what was put: packs are those that were stored, kept those that it
// needs and that were there before.
type root struct {
	ref         pack.Ref // zero until it is in the volume that it was put into
	entry       volume.Entry
	packs, kept []pack.ID
	found       map[pack.ID]bool // those of kept that the index gave
}

// putRoot stores what write writes, and tells in the end how well.
func (n *Node) putRoot(ctx context.Context, q PutRequest, progress func(Progress), write func(*putter, *volume.Keys, volume.Options) (root, error)) (PutResult, error) {
	begun := n.engine.clock.Now()
	if q.Redundancy != nil {
		if err := pack.CheckScheme(*q.Redundancy); err != nil {
			return PutResult{}, fail(Usage, "", "redundancy %s: %w", q.Redundancy, err)
		}
	}
	into, err := n.targetOf(q)
	if err != nil {
		return PutResult{}, err
	}
	var expires uint64
	if q.Expires > 0 {
		expires = uint64(n.engine.clock.Now().Add(q.Expires).UnixMilli())
	}
	keys := into.vol.keys
	p := n.engine.newPutter(ctx, keys.Owner, q.Redundancy, expires)
	defer p.end()
	p.joins = true

	options := volume.Options{Part: into.named, PackBytes: cmp.Or(n.packLen, packBytes(q.Redundancy)), Lists: n.engine.lists}
	index := n.newIndex(into.vol, q)
	if index != nil {
		options.Index = index
	}
	if progress != nil {
		options.Progress = func(done int64) { progress(Progress{Done: done, Total: q.Size}) }
	}
	r, err := write(p, keys, options)
	if err == nil {
		err = p.Wait(ctx)
	}
	var st staged
	if err == nil && expires == 0 && (into.named || !n.loose) {
		if index != nil {
			r.found = index.found
		}
		st, err = n.stage(ctx, p, into, r)
		defer st.end()
		if err == nil && into.named { // its root is in the pack of the head
			r.ref = st.commit.written.Links[0]
			r.packs = append(r.packs, r.ref.Pack)
		}
	}
	if err == nil {
		err = p.confirm(ctx)
	}
	if err != nil {
		return PutResult{}, p.fail(ctx, err)
	}
	// A crash before this loses the row in the catalog, nothing else: what was
	// put can be read by nobody, for nobody has its link yet.
	ofRoot, ofVolume := p.packs, []*placed(nil)
	if into.named {
		ofRoot, ofVolume = nil, p.packs
	} else if st.commit != nil {
		ofVolume = slices.DeleteFunc(slices.Clone(p.packs), func(x *placed) bool { return !slices.Contains(st.commit.written.Packs, x.id) })
		ofRoot = slices.DeleteFunc(slices.Clone(p.packs), func(x *placed) bool { return slices.Contains(st.commit.written.Packs, x.id) })
	}
	before, owned := n.ownedPacks(r.kept)
	link := n.linkTo(r.entry, r.ref)
	if owned == nil && !into.named {
		owned = n.own(link, r.entry, q.Source, ofRoot, before)
	}
	if owned == nil && st.commit != nil {
		owned = st.commit.own(ofVolume, nil)
	}
	head, err := st.publish(ctx, into)
	if err != nil {
		return PutResult{}, err
	}
	worst := p.worst(before)
	res := PutResult{
		Link: link.String(), Bytes: r.entry.Size, Packs: len(r.packs) + len(r.kept),
		K: worst.k, N: worst.k + worst.m, Stored: len(worst.holders), Survives: len(worst.holders) - worst.k,
		Seconds: n.engine.clock.Now().Sub(begun).Seconds(),
	}
	if r.entry.Kind == volume.DirEntry {
		res.Bytes, res.Files = r.entry.Bytes, r.entry.Files
	}
	if head != nil {
		res.Place, res.Head = st.place, head.Number
	}
	for _, pk := range p.packs {
		res.NewBytes += int64(pk.owned.Len)
		if pk.partial() {
			res.Partial = true
		}
	}
	switch {
	case res.Partial:
		res.Warning = fmt.Sprintf("stored with %d of %d shards of one pack%s", res.Stored, res.N, because(worst.reasons))
	case res.Survives == 0 && res.N == 1:
		res.Warning = "nothing is safe yet: the only copy is on one node; when more nodes have joined, put the file again"
	case res.Survives == 0:
		res.Warning = "nothing is safe yet: the loss of any one holder loses the file"
	case worst.silent > 0 && q.Redundancy == nil && worst.scheme.N() < steps[0].N():
		res.Warning = fmt.Sprintf("%d known peers did not answer: with them the file would survive more losses", worst.silent)
	case worst.scheme.K == 1 && q.Redundancy == nil:
		res.Warning = fmt.Sprintf("few peers: whole copies on %d nodes, any 1 of %d restores the file", res.N, res.N)
	}
	if st.failed != nil {
		n.engine.log.Warn("put not written into the volume", "volume", into.vol.name, "err", st.failed)
		res.Warning = cmp.Or(res.Warning, fmt.Sprintf("stored, but not written into %s: keep the link: %v", into.vol.name, st.failed))
	}
	if owned != nil {
		n.engine.log.Error("put not written down", "err", owned)
		res.Warning = "stored, but this home could not write down that it did: keep the link, 'p2pfs rm' needs it"
	}
	return res, nil
}

// Get writes the bytes asked for of what a source names. begin is called once
// the file is known and gives where to write.
func (n *Node) Get(ctx context.Context, q GetRequest, begin func(FileInfo) (io.Writer, error), progress func(Progress)) error {
	if q.Offset < 0 || q.Length < -1 {
		return fail(Usage, "", "negative offset or length")
	}
	_, f, err := n.open(ctx, q.Source)
	if err != nil {
		return err
	}
	entry := f.Entry()
	switch entry.Kind {
	case volume.FileEntry:
	case volume.DirEntry:
		return fail(Usage, "'p2pfs get' fetches it whole, 'p2pfs ls' lists it", "it is a directory")
	case volume.SymlinkEntry:
		return fail(Usage, "give the path that it leads to", "it is a symbolic link to %q", entry.Target)
	default:
		return fail(Usage, "", "it is neither a file nor a directory")
	}
	id, err := identity(f)
	if err != nil {
		return err
	}
	w, err := begin(FileInfo{Name: entry.Name, Mode: entry.Mode, ModTime: entry.MTime, Size: entry.Size, ID: id})
	if err != nil {
		return err
	}
	length := max(entry.Size-q.Offset, 0)
	if q.Length >= 0 {
		length = min(length, q.Length)
	}
	if progress != nil {
		w = &counted{w: w, progress: progress, total: length}
	}
	_, err = f.WriteTo(ctx, w, q.Offset, length, rangesAhead)
	return err
}

// identity names what f is, whatever it is called, in hex.
func identity(f *volume.File) (string, error) {
	h, err := f.Identity("content")
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(h[:]), nil
}

// counted reports what passes.
type counted struct {
	w           io.Writer
	progress    func(Progress)
	done, total int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.done += int64(n)
	c.progress(Progress{Done: c.done, Total: c.total})
	return n, err
}

// link parses a source that must be a link to a file, a tree or an inventory,
// alone.
func (n *Node) link(text string) (volume.Link, error) {
	s, err := n.seek(text)
	switch {
	case err != nil:
		return s.link, err
	case s.vol != nil:
		return s.link, fail(Usage, "give the link that 'p2pfs put' or 'p2pfs link' printed", "it is in a volume")
	case s.path != "":
		return s.link, fail(Usage, "give the link to the tree itself", "it is a path in a tree")
	}
	return s.link, nil
}

// open finds what a source names: at, in the file or tree of root.
func (n *Node) open(ctx context.Context, text string) (root, at *volume.File, err error) {
	s, err := n.seek(text)
	if err != nil {
		return nil, nil, err
	}
	if s.vol != nil {
		root, at, _, err = n.at(ctx, s)
		return root, at, err
	}
	if err := s.link.Usable(); err != nil {
		return nil, nil, &Error{Code: Refused, Err: err}
	}
	root, err = volume.OpenRoot(ctx, source{n.engine}, s.link)
	if err != nil {
		return nil, nil, err
	}
	if k, _ := n.engine.packs.get(s.link.Root.Pack); k != nil {
		if entry := root.Entry(); entry.Refs() > 1 || entry.Kind == volume.DirEntry {
			if ids, err := root.Packs(ctx); err == nil {
				n.engine.askAll(ctx, k, ids)
			}
		}
	}
	at, err = root.Lookup(ctx, s.path)
	if err != nil {
		return nil, nil, err
	}
	return root, at, nil
}

// Link gives the link to what a source names, or with verify the link that
// gives the right to check and repair it and shows nothing of it. Of a place in
// a volume it is a link to what is there now, which stays whole from then on,
// whatever becomes of the place.
func (n *Node) Link(ctx context.Context, text string, verify bool) (string, error) {
	s, err := n.seek(text)
	if err != nil {
		return "", err
	}
	if s.vol != nil {
		if err := cmp.Or(s.vol.mayRead(), s.vol.mayWrite()); err != nil {
			return "", err
		}
		l, inventory, err := n.pin(ctx, s)
		if err != nil {
			return "", err
		}
		if verify {
			l = volume.VerifyLink(n.engine.network, inventory)
		}
		return l.String(), nil
	}
	l, err := n.link(text)
	if err != nil {
		return "", err
	}
	if !verify || l.Kind == volume.KindVerify {
		return l.String(), nil
	}
	f, _, err := n.open(ctx, text)
	if err != nil {
		return "", err
	}
	ref, ok := f.Inventory()
	if !ok { // every root has one, the smallest too
		return "", fail(Failed, "put it again with this version", "%q has no inventory that a verify link could point to", f.Entry().Name)
	}
	return volume.VerifyLink(n.engine.network, ref).String(), nil
}

// Stat tells what a source is and how safe it is now: all who may hold a shard
// of it are asked for a sample. What is in a tree is as safe as the tree.
func (n *Node) Stat(ctx context.Context, text string) (Stat, error) {
	src, err := n.sourcePacks(ctx, text)
	if err != nil {
		return Stat{}, err
	}
	st, ids := Stat{Kind: src.kind}, src.ids
	if src.at != nil {
		e := src.at.Entry()
		st = Stat{Kind: KindName(e.Kind), Name: e.Name, Mode: e.Mode, ModTime: e.MTime, Bytes: e.Size}
		if e.Kind == volume.DirEntry {
			st.Kind, st.Bytes, st.Files = "tree", e.Bytes, e.Files
		}
	}
	st.Packs = len(ids)
	var mu sync.Mutex
	first := true
	err = n.eachPack(ctx, ids, func(ctx context.Context, id pack.ID) error {
		p, k, err := n.inspect(ctx, id)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if k != nil {
			if src.at == nil {
				st.Bytes += int64(k.geometry.Len)
			}
			if x := k.manifest.State.Expires; x > 0 && (st.Expires.IsZero() || time.UnixMilli(int64(x)).Before(st.Expires)) {
				st.Expires = time.UnixMilli(int64(x))
			}
		}
		if first || p.Survives < st.Survives {
			first = false
			st.K, st.N, st.Live, st.Unknown, st.Survives = p.K, p.N, p.Live, p.Unknown, p.Survives
		}
		return nil
	})
	if err != nil {
		return Stat{}, err
	}
	return st, nil
}

// codeOfCause gives the outcome of errors that come from below.
func codeOfCause(err error) Code {
	if r, ok := errors.AsType[*wire.Refusal](err); ok {
		switch r.Code {
		case wire.NotMember, wire.Denied, wire.OtherNetwork, wire.Quota:
			return Refused
		case wire.Full:
			return NoPeers
		case wire.NotFound:
			return NotFound
		case wire.Corrupt, wire.Signature:
			return Corrupt
		}
		return Failed
	}
	if short, ok := errors.AsType[*erasure.ShortError](err); ok && short.Need > 0 {
		return Short
	}
	switch {
	case errors.Is(err, context.Canceled):
		return Interrupted
	case errors.Is(err, volume.ErrNotFound), errors.Is(err, volume.ErrNotDir):
		return NotFound
	case errors.Is(err, pack.ErrCorrupt), errors.Is(err, pack.ErrSignature): // store.ErrCorrupt is the same
		return Corrupt
	case errors.Is(err, member.ErrRefused), errors.Is(err, volume.ErrNetwork):
		return Refused
	case errors.Is(err, store.ErrFull), errors.Is(err, dht.ErrNoPeers):
		return NoPeers
	case errors.Is(err, volume.ErrLink):
		return Usage
	}
	return Failed
}
