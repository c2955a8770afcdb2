package dht

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"
)

// Walk yields servers farther and farther from id, each once, the node itself
// at its place if it is one, until the network is exhausted. The first Width
// come from one lookup of id. Beyond, it looks up the nearest corners of the
// subtrees next to what is known, a lookup for about each Width peers. With
// nobody else known a server yields itself, a client ErrNoPeers. An error ends
// the walk.
func (d *DHT) Walk(ctx context.Context, id ID) iter.Seq2[peer.ID, error] {
	return func(yield func(peer.ID, error) bool) {
		table := d.Peers()
		if len(table) == 0 && !d.server {
			yield("", ErrNoPeers)
			return
		}
		w := walk{ctx: ctx, lookup: d.kad.GetClosestPeers, target: place(id), yielded: map[peer.ID]bool{}, yield: yield}
		// A lookup returns whom those asked know. In a small network a
		// peer that has just come may be in nobody's table but ours. In a
		// large one the table adds nothing but peers that may be gone.
		if len(table) < 2*Width {
			w.known = table
		}
		if d.server {
			w.known = append(w.known, d.host.ID())
		}
		w.subtree(string(key(id)), w.target, 0)
	}
}

// walk visits peers by their distance from target.
type walk struct {
	ctx    context.Context
	lookup func(ctx context.Context, key string) ([]peer.ID, error) // the Width closest to the key's place
	target kb.ID
	known  []peer.ID // besides those that lookups find
	yield  func(peer.ID, error) bool

	yielded map[peer.ID]bool
	depth   int // bits that the Width closest to target share: how dense the network is
}

// subtree yields all peers that share the first bits of corner, the place in
// that subtree that is nearest to target. The hash of key lies at or next to
// corner. It tells whether to go on.
func (w *walk) subtree(key string, corner kb.ID, bits int) bool {
	found, err := w.lookup(w.ctx, key)
	if w.ctx.Err() != nil {
		err = w.ctx.Err()
	}
	// Where nobody could be asked, what is known otherwise stands.
	if err != nil && !errors.Is(err, kb.ErrLookupFailure) {
		w.yield("", fmt.Errorf("dht: closest peers: %w", err))
		return false
	}
	in := func(p peer.ID) bool { return kb.CommonPrefixLen(corner, kb.ConvertPeerID(p)) >= bits }
	inside := slices.DeleteFunc(slices.Clone(found), func(p peer.ID) bool { return !in(p) })
	slices.SortFunc(inside, w.compare)

	// Found fewer than Width, or some from outside: that is all there is
	// inside. Else that is all up to the farthest found.
	complete := len(found) < Width || len(inside) < len(found)
	near := 0
	if !complete {
		// What hashes only nearly to corner leaves open which of the
		// peers next to the farthest are nearer than others not found:
		// those wait for the lookup of their own subtree.
		far := inside[len(inside)-1]
		exact := kb.CommonPrefixLen(kb.ConvertKey(key), corner)
		open := slices.IndexFunc(inside, func(p peer.ID) bool {
			return kb.CommonPrefixLen(kb.ConvertPeerID(p), kb.ConvertPeerID(far)) >= exact
		})
		if open > 0 {
			inside = inside[:open]
			far = inside[open-1]
		}
		near = kb.CommonPrefixLen(corner, kb.ConvertPeerID(far))
		if bits == 0 {
			w.depth = near
		}
		in = func(p peer.ID) bool { return w.compare(p, far) < 0 }
	}
	for _, p := range w.known {
		if in(p) {
			inside = append(inside, p)
		}
	}
	slices.SortFunc(inside, w.compare)
	for _, p := range inside {
		if w.yielded[p] {
			continue
		}
		w.yielded[p] = true
		if !w.yield(p, nil) {
			return false
		}
	}
	if complete {
		return true
	}
	// What remains lies beside the path to corner, nearer where the branch
	// is deeper; the deepest is where the farthest found lies.
	for b := min(near, len(corner)*8-1); b >= bits; b-- {
		next := slices.Clone(corner)
		next[b/8] ^= 0x80 >> (b % 8)
		if !w.subtree(preimage(next, max(w.depth+preimageBits, b+1)), next, b+1) {
			return false
		}
	}
	return true
}

// compare orders by distance from target.
func (w *walk) compare(a, b peer.ID) int {
	return slices.Compare(kb.Xor(kb.ConvertPeerID(a), w.target), kb.Xor(kb.ConvertPeerID(b), w.target))
}

const (
	// preimageBits is by how many bits more than the Width closest peers
	// share a preimage hits its place: so many that hardly a peer lies
	// between.
	preimageBits = 8
	// maxPreimage bounds the search: 2^20 hashes are some 60 ms.
	maxPreimage = 20
)

// preimage returns a key whose hash shares the first bits of place, at most
// maxPreimage. Peers look up what they are asked for by its hash, so a place
// can be asked for only by something that hashes to it.
func preimage(place kb.ID, bits int) string {
	bits = min(bits, maxPreimage)
	want := binary.BigEndian.Uint32(place) >> (32 - bits)
	key := make([]byte, 2+32)
	key[0], key[1] = multihash.SHA2_256, 32
	for i := uint64(0); ; i++ {
		binary.BigEndian.PutUint64(key[2:], i)
		h := sha256.Sum256(key)
		if binary.BigEndian.Uint32(h[:])>>(32-bits) == want {
			return string(key)
		}
	}
}
