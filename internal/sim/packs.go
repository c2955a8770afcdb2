package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"sync"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
)

// theNetwork is the network that all packs of all worlds belong to.
var theNetwork = pack.Network(sha256.Sum256([]byte("simulated")))

// begin is when every world begins: a Monday at midnight.
const begin = 1_767_571_200_000 // Unix milliseconds: 2026-01-05T00:00:00Z

// A content is the bytes of a pack and its parity. Packs of other owners share
// it, for it is never written to.
type content struct {
	scheme  erasure.Scheme
	g       erasure.Geometry
	content pack.Content
	data    []byte
	parity  []byte
	hashes  []pack.Hash
}

// A fixture is a pack as its owner has it.
type fixture struct {
	*content
	id       pack.ID
	key      [32]byte // where it lies
	manifest *pack.Manifest
	owner    ed25519.PrivateKey
}

type contentKey struct {
	scheme erasure.Scheme
	blocks int
	n      int
}

var (
	fixturesMu sync.Mutex
	contents   = map[contentKey]*content{}
	fixtures   = map[contentKey]*fixture{}
)

// newContent gives one of the contents of that many blocks of 4 KiB.
func newContent(s erasure.Scheme, blocks, n int) *content {
	k := contentKey{s, blocks, n % 4}
	if c := contents[k]; c != nil {
		return c
	}
	c := &content{scheme: s, data: make([]byte, blocks*erasure.MinBlock)}
	src := rand.NewChaCha8(sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(k.n*1000+blocks))))
	src.Read(c.data)
	c.content = pack.NewContent(c.data)
	c.g = erasure.NewGeometry(len(c.data), s)
	c.parity = make([]byte, c.g.ParityLen())
	var err error
	if c.hashes, err = pack.Code(c.content, c.data, s, c.parity); err != nil {
		panic(err)
	}
	contents[k] = c
	return c
}

// newFixture gives the n-th pack of that scheme and size: the same in every
// world.
func newFixture(s erasure.Scheme, blocks, n int) *fixture {
	fixturesMu.Lock()
	defer fixturesMu.Unlock()
	k := contentKey{s, blocks, n}
	if f := fixtures[k]; f != nil {
		return f
	}
	c := newContent(s, blocks, n)
	seed := sha256.Sum256([]byte(s.String() + string(binary.BigEndian.AppendUint64(nil, uint64(n)))))
	f := &fixture{content: c, owner: ed25519.NewKeyFromSeed(seed[:])}
	st := pack.NewState(theNetwork, pack.Owner(f.owner.Public().(ed25519.PublicKey)), c.content, s, true, begin, c.hashes)
	st.Sign(f.owner)
	f.manifest = &pack.Manifest{Content: c.content, State: *st}
	f.id = f.manifest.ID()
	f.key = placeOf(f.id)
	if err := f.manifest.Verify(theNetwork, f.id); err != nil {
		panic(err)
	}
	fixtures[k] = f
	return f
}

// cell gives the block at (shard, row), as it is when nothing has gone wrong.
func (f *fixture) cell(shard, row int) []byte { return f.g.Cell(f.data, f.parity, shard, row) }

// placeOf gives where a pack lies in Kademlia's key space: what dht makes of
// its key, a multihash.
func placeOf(id pack.ID) [32]byte {
	return sha256.Sum256(append([]byte{0x1e, byte(len(id))}, id[:]...))
}
