package pack

import (
	"encoding/binary"
	"fmt"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
)

const (
	manifestMagic   = "p2pM"
	manifestVersion = 1
	manifestFixed   = headerLen + 4 + 4
)

// Manifest is all that is public of a live pack. Every holder keeps it. Its
// state is never a deleted one.
type Manifest struct {
	Content Content
	State   State
}

// ID is the ID of the pack.
func (m *Manifest) ID() ID { return m.State.ID() }

// Geometry says how the pack is cut into blocks and shards.
func (m *Manifest) Geometry() erasure.Geometry {
	return erasure.NewGeometry(m.Content.Len, m.State.Scheme())
}

// BlockHash is the hash of the block at (shard, row), data or parity. Where
// there is no such block it is zero, which no block verifies against.
func (m *Manifest) BlockHash(shard, row int) Hash {
	g := m.Geometry()
	if shard < 0 || row < 0 || shard >= g.N() || row >= g.Rows {
		return Hash{}
	}
	i, hs := 0, m.Content.Hashes
	switch {
	case g.K == 1:
		i = row
	case shard < g.K:
		i = g.Block(shard, row)
	default:
		i, hs = (shard-g.K)*g.Rows+row, m.State.Parity
	}
	if i < 0 || i >= len(hs) {
		return Hash{}
	}
	return hs[i]
}

// Encode gives the one encoding of m.
func (m *Manifest) Encode() []byte {
	c, s := m.Content.encodedLen(), m.State.encodedLen()
	b := make([]byte, 0, manifestFixed+c+s)
	b = appendHeader(b, manifestMagic, manifestVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(c))
	b = m.Content.append(b)
	b = binary.BigEndian.AppendUint32(b, uint32(s))
	return m.State.append(b)
}

// DecodeManifest reads what [Manifest.Encode] gave, at most [MaxManifest]
// bytes, and checks that content and state belong together. It does not verify
// the signature: see [Manifest.Verify].
func DecodeManifest(b []byte) (*Manifest, error) {
	m, err := decodeManifest(b)
	if err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	return m, nil
}

func decodeManifest(b []byte) (*Manifest, error) {
	r := reader{b: b}
	if len(b) > MaxManifest {
		r.fail("%d bytes, at most %d are allowed", len(b), MaxManifest)
	}
	r.header("manifest", manifestMagic, manifestVersion)
	cb := r.take(int(r.u32()))
	sb := r.take(int(r.u32()))
	if err := r.end(); err != nil {
		return nil, err
	}
	c, err := DecodeContent(cb)
	if err != nil {
		return nil, err
	}
	s, err := DecodeState(sb)
	if err != nil {
		return nil, err
	}
	m := &Manifest{Content: c, State: *s}
	return m, m.check()
}

// check refuses a manifest whose content and state do not fit.
func (m *Manifest) check() error {
	c, s := &m.Content, &m.State
	if s.Deleted {
		return fmt.Errorf("%w: a manifest of a deleted pack", ErrCorrupt)
	}
	if c.Len < 1 || c.Len > MaxLen || len(c.Hashes) != layout(c.Len).Blocks {
		return fmt.Errorf("%w: %d block hashes for %d bytes", ErrCorrupt, len(c.Hashes), c.Len)
	}
	if c.Hash() != s.Content {
		return fmt.Errorf("%w: state and content are of different packs", ErrCorrupt)
	}
	if err := s.check(); err != nil {
		return err
	}
	g := m.Geometry()
	if s.Coded != g.K {
		return fmt.Errorf("%w: %d data shards, want %d", ErrCorrupt, s.Coded, g.K)
	}
	if want := parityHashes(g); len(s.Parity) != want {
		return fmt.Errorf("%w: %d parity hashes, want %d", ErrCorrupt, len(s.Parity), want)
	}
	if n := manifestFixed + c.encodedLen() + s.encodedLen(); n > MaxManifest {
		return fmt.Errorf("%w: a manifest of %d bytes", ErrCorrupt, n)
	}
	return nil
}

// Verify checks everything about m: that it is the manifest of pack id, in
// this network, that content, coding and counts fit, and that the owner signed
// it. It costs an Ed25519 verification, about 0.1 ms; callers that meet the
// same manifest often remember that it was good.
func (m *Manifest) Verify(network Network, id ID) error {
	if err := m.check(); err != nil {
		return fmt.Errorf("manifest of pack %s: %w", id.Short(), err)
	}
	if got := m.ID(); got != id {
		return fmt.Errorf("manifest of pack %s: %w: it is that of pack %s", id.Short(), ErrCorrupt, got.Short())
	}
	if m.State.Network != network {
		return fmt.Errorf("manifest of pack %s: %w: it belongs to network %s, this is %s",
			id.Short(), ErrCorrupt, m.State.Network.Short(), network.Short())
	}
	return m.State.Verify()
}

// VerifyBlock checks the block at (shard, row) against the manifest.
func (m *Manifest) VerifyBlock(shard, row int, block []byte) error {
	g := m.Geometry()
	if shard < 0 || row < 0 || shard >= g.N() || row >= g.Rows {
		return fmt.Errorf("pack %s: no block at shard %d, row %d", m.ID().Short(), shard, row)
	}
	if want := g.CellLen(shard, row); len(block) != want {
		return fmt.Errorf("pack %s: shard %d, row %d: %w: %d bytes, want %d", m.ID().Short(), shard, row, ErrCorrupt, len(block), want)
	}
	if len(block) > 0 && digest.Of(block) != m.BlockHash(shard, row) {
		return fmt.Errorf("pack %s: shard %d, row %d: %w: wrong hash", m.ID().Short(), shard, row, ErrCorrupt)
	}
	return nil
}

// parityHashes is how many parity hashes a state of that geometry lists.
func parityHashes(g erasure.Geometry) int {
	if g.K == 1 {
		return 0
	}
	return g.M * g.Rows
}

// CheckScheme refuses a scheme under which the manifest of a full pack would
// be longer than [MaxManifest], and those that are not valid at all.
func CheckScheme(s erasure.Scheme) error {
	if err := s.Valid(); err != nil {
		return err
	}
	g := erasure.NewGeometry(MaxLen, s)
	n := manifestFixed + maxContent + stateFixed + 32*parityHashes(g)
	if n > MaxManifest {
		return fmt.Errorf("scheme %s: the hashes of a full pack take %d bytes, at most %d are allowed: take a larger k or a smaller m",
			s, n, MaxManifest)
	}
	return nil
}

// Code computes the parity of a pack under scheme s into parity, which has the
// geometry's ParityLen bytes, and gives the hashes that its state lists. Where
// a pack has a single data shard every shard is the data itself: there is then
// nothing to compute, parity is not touched and may be nil, and there are no
// hashes. The geometry's Cell finds the blocks in either case.
func Code(content Content, pack []byte, s erasure.Scheme, parity []byte) ([]Hash, error) {
	if len(pack) != content.Len {
		return nil, fmt.Errorf("code pack: got %d bytes, want %d", len(pack), content.Len)
	}
	g := erasure.NewGeometry(content.Len, s)
	if parityHashes(g) == 0 {
		return nil, nil
	}
	if len(parity) != g.ParityLen() {
		return nil, fmt.Errorf("code pack: got room for %d bytes of parity, want %d", len(parity), g.ParityLen())
	}
	if err := erasure.Encode(g, pack, parity); err != nil {
		return nil, fmt.Errorf("code pack: %w", err)
	}
	hs := make([]Hash, parityHashes(g))
	hashAll(hs, func(i int) []byte {
		return g.Cell(pack, parity, g.K+i/g.Rows, i%g.Rows)
	})
	return hs, nil
}
