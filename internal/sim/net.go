package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"iter"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/wire"
)

var (
	_ repair.Network   = (*network)(nil)
	_ repair.Directory = (*directory)(nil)
	_ repair.Clock     = (*clock)(nil)
)

// kind is a kind of question.
type kind int

const (
	facts kind = iota
	have
	manifest
	state
	read
	storing
	holders
	setState
	kinds
)

// phase is what a question was asked for.
type phase int

const (
	watching phase = iota
	reviewing
	repairing
	tidying
	auditing
	scrubbing
	phases
)

// What goes over the wire beside the bodies of frames (docs/protocol.md), in bytes.
const (
	frameLen = 5

	// streamLen is what one question costs beneath the protocol: the stream's
	// own negotiation (both sides name multistream and the protocol, 70
	// bytes), two packets each way with the headers of IPv4, UDP and QUIC and
	// its authentication (about 55 each), acknowledgements among them.
	streamLen = 290

	factsLen   = 5*8 + 2 + 8 // what a peer says about itself, without zone and version
	holdingLen = 14
	peerLen    = 40
)

// errSilent is what comes of a question to a peer that is not there.
var errSilent = errors.New("no answer")

// network is how one peer asks the others: calls of their servers.
type network struct{ p *peer }

// to finds the peer asked, if the question reaches it. body is the length of
// the question.
func (n *network) to(peer string, k kind, body int) (*peer, error) {
	w := n.p.w
	t := &w.traffic[w.phase][k]
	t.calls++
	t.bytes += int64(streamLen + frameLen + body)
	q := w.byID[peer]
	if q == nil || !q.online() || !w.reach(n.p, q) || w.fails() {
		return nil, errSilent
	}
	return q, nil
}

// got counts the bytes of an answer.
func (n *network) got(k kind, body int) {
	n.p.w.traffic[n.p.w.phase][k].bytes += int64(frameLen + body)
}

// reach tells whether no partition is between two peers.
func (w *world) reach(a, b *peer) bool {
	return w.split == nil || w.split[a.zone] == w.split[b.zone]
}

// fails tells whether a question gets lost.
func (w *world) fails() bool {
	return w.cfg.Silence > 0 && w.rng.Float64() < w.cfg.Silence
}

// Facts asks a peer about itself.
func (n *network) Facts(_ context.Context, peer string) (wire.Facts, error) {
	q, err := n.to(peer, facts, 0)
	if err != nil {
		return wire.Facts{}, err
	}
	f := q.srv.facts()
	n.got(facts, factsLen+len(f.Zone)+len(f.Version))
	return f, nil
}

// Have asks what a peer has of packs.
func (n *network) Have(_ context.Context, peer string, ids []pack.ID) ([]wire.Holding, error) {
	q, err := n.to(peer, have, 32*len(ids))
	if err != nil {
		return nil, err
	}
	hs := q.srv.have(n.p.id, ids)
	n.got(have, holdingLen*len(hs))
	return hs, nil
}

// Manifest fetches a manifest.
func (n *network) Manifest(_ context.Context, peer string, id pack.ID) (*pack.Manifest, error) {
	q, err := n.to(peer, manifest, 32)
	if err != nil {
		return nil, err
	}
	m, err := q.srv.manifest(id)
	if err != nil {
		return nil, err
	}
	n.got(manifest, manifestLen(m))
	if err := n.p.w.verify(m, id); err != nil {
		return nil, err
	}
	return m, nil
}

// manifestLen is the length of an encoded manifest, near enough.
func manifestLen(m *pack.Manifest) int {
	return 300 + 32*(len(m.Content.Hashes)+len(m.State.Parity))
}

// verify checks a manifest, once for each there is.
func (w *world) verify(m *pack.Manifest, id pack.ID) error {
	if x := w.byPack[id]; x != nil && x.manifest == m {
		return nil // verified when it was made
	}
	return m.Verify(theNetwork, id)
}

// verifyState does the same for states.
func (w *world) verifyState(st *pack.State) error {
	if w.verified[st] {
		return nil
	}
	err := st.Verify()
	if err == nil {
		w.verified[st] = true
	}
	return err
}

// State fetches the newest state that a peer knows.
func (n *network) State(_ context.Context, peer string, id pack.ID) (*pack.State, error) {
	q, err := n.to(peer, state, 32)
	if err != nil {
		return nil, err
	}
	st, err := q.srv.state(id)
	if err != nil {
		return nil, err
	}
	n.got(state, 230+32*len(st.Parity))
	if st.ID() != id || st.Network != theNetwork {
		return nil, wire.ErrProtocol
	}
	return st, n.p.w.verifyState(st)
}

// Read reads blocks of one shard.
func (n *network) Read(_ context.Context, peer string, r wire.ReadRequest, g erasure.Geometry, take func(row int, b []byte, err error)) error {
	q, err := n.to(peer, read, 39)
	if err != nil {
		return err
	}
	buf := make([]byte, 0, g.BlockSize)
	for row := r.Row; row < r.Row+r.Count; row++ {
		b, err := q.srv.read(r, row, buf)
		if err != nil && row == r.Row && (errors.Is(err, wire.ErrNotFound) || errors.Is(err, wire.ErrOtherCoding)) {
			n.got(read, 0)
			return err
		}
		if err == errSilent {
			return err
		}
		n.got(read, 1+len(b))
		n.p.w.blocks += int64(len(b))
		take(row, b, err)
	}
	return nil
}

// Store has a peer keep a shard.
func (n *network) Prove(_ context.Context, peer string, r wire.ProveRequest) ([]byte, error) {
	q, err := n.to(peer, read, 43)
	if err != nil {
		return nil, err
	}
	b, err := q.srv.read(wire.ReadRequest{ID: r.ID, K: r.K, M: r.M, Shard: r.Shard, Row: r.Row, Count: 1}, r.Row, nil)
	if err != nil {
		if err != errSilent {
			n.got(read, 0)
		}
		return nil, err
	}
	if r.Off >= len(b) {
		return nil, wire.ErrNotFound
	}
	proof := digest.Prove(b, r.Off)
	n.got(read, len(proof))
	return proof, nil
}

func (n *network) Store(_ context.Context, peer string, r *wire.StoreRequest, cell func(row int) []byte) error {
	q, err := n.to(peer, storing, 19+manifestLen(r.Manifest)+peerLen*len(r.Holders))
	if err != nil {
		return err
	}
	w := n.p.w
	sent := 0
	took, err := q.srv.store(n.p.id, r, func(row int) []byte {
		b := cell(row)
		sent += len(b)
		return b
	})
	n.got(storing, sent+frameLen)
	w.blocks += int64(sent)
	if took {
		w.restored(r.Manifest, r.Shard)
	}
	return err
}

// Holders tells a peer who holds packs.
func (n *network) Holders(_ context.Context, peer string, packs []wire.PackHolders) error {
	body := 2
	for _, p := range packs {
		body += frameLen + 42 + peerLen*len(p.Holders)
	}
	q, err := n.to(peer, holders, body)
	if err != nil {
		return err
	}
	n.got(holders, len(packs))
	for _, p := range packs {
		if e := q.srv.holders(n.p.id, p); e != nil && err == nil {
			err = e
		}
	}
	return err
}

// SetState tells a peer a new state.
func (n *network) SetState(_ context.Context, peer string, st *pack.State) error {
	q, err := n.to(peer, setState, 230+32*len(st.Parity))
	if err != nil {
		return err
	}
	n.got(setState, 0)
	return q.srv.setState(n.p.id, st)
}

// Group names no group: simulated peers have private addresses.
func (n *network) Group(string) string { return "" }

// directory answers for the DHT: it knows who is there.
type directory struct{ p *peer }

// sees tells whether the DHT, as this peer has it, knows another.
func (d *directory) sees(q *peer) bool { return q == d.p || q.online() && d.p.w.reach(d.p, q) }

// Closest gives the n closest peers.
func (d *directory) Closest(_ context.Context, id pack.ID, n int) ([]string, error) {
	out := make([]string, 0, n)
	for _, q := range d.p.w.closest(id) {
		if len(out) == n {
			break
		}
		if d.sees(q) {
			out = append(out, q.id)
		}
	}
	return out, nil
}

// Walk yields all peers, the closest first.
func (d *directory) Walk(_ context.Context, id pack.ID) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, q := range d.p.w.closest(id) {
			if d.sees(q) && !yield(q.id, nil) {
				return
			}
		}
	}
}

// Holders yields who announced the pack.
func (d *directory) Holders(_ context.Context, id pack.ID) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, q := range d.p.w.closest(id) {
			if d.sees(q) && q.srv.announces(id) && !yield(q.id, nil) {
				return
			}
		}
	}
}

// Compare says which of two peers is closer to a pack.
func (d *directory) Compare(id pack.ID, a, b string) int {
	w := d.p.w
	if x := w.byPack[id]; x != nil {
		return compare(x.key, w.known(a), w.known(b))
	}
	return compare(placeOf(id), w.known(a), w.known(b))
}

// known gives the peer of an ID, one that nobody has perhaps.
func (w *world) known(id string) *peer {
	if p := w.byID[id]; p != nil {
		return p
	}
	return &peer{id: id, key: sha256.Sum256([]byte(id))}
}

// clock is the time as a peer has it. What waits is not held up: the peer is
// busy for as long.
type clock struct{ p *peer }

// Now tells the time, with what has been waited for in this step.
func (c *clock) Now() time.Time { return c.p.w.now().Add(c.p.waited) }

// After gives a channel that has received.
func (c *clock) After(d time.Duration) (<-chan time.Time, func()) {
	c.p.waited += d
	ch := make(chan time.Time, 1)
	ch <- c.Now()
	return ch, func() {}
}
