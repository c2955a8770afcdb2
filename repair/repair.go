// Package repair keeps packs at their redundancy while peers come and go,
// without their owners, without keys, without a coordinator.
//
// Every holder runs a [Keeper]. For the packs of which it keeps a shard it
// knows who keeps the others. It probes those peers (one question a peer,
// whatever the number of packs), audits them (a random block of a random shard
// now and then, checked against the manifest) and counts live shards: distinct
// shards on distinct peers. Where a pack has too few, the live holder that is
// closest to it restores what is missing and places it on other peers; if it
// does not, the next closest does.
//
// What is decided is decided by pure functions: [Diagnose] says how a pack is,
// [Place] who may hold what is missing. The keeper meets the world only through
// the doors of this file: questions to peers, the few there are for the DHT,
// the shelf of its own shards, a clock, a source of randomness. libp2p and
// Badger stand behind them in real life, an in-memory network with years of
// simulated churn in tests.
//
// The keeper's work comes in steps, each of which a caller may run when it
// likes: [Keeper.Watch], [Keeper.Review], [Keeper.Repair], [Keeper.Audit],
// [Keeper.Scrub]. [Keeper.Run] runs them all by the clock until its context
// ends. docs/design.md#repair says why they do what they do.
package repair

import (
	"context"
	"iter"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

// Network asks peers. A peer is named by its ID in raw bytes. Each method
// bounds its own time; an error that is a [*wire.Refusal] is an answer, any
// other is silence.
type Network interface {
	// Facts is the probe: it asks the peer about itself.
	Facts(ctx context.Context, peer string) (wire.Facts, error)

	// Have asks what the peer has of up to [wire.MaxIDs] packs.
	Have(ctx context.Context, peer string, ids []pack.ID) ([]wire.Holding, error)

	// Manifest fetches a manifest, verified to be that of the pack.
	Manifest(ctx context.Context, peer string, id pack.ID) (*pack.Manifest, error)

	// State fetches the newest state that the peer knows of a pack, a
	// tombstone perhaps, verified to be of that pack and signed by its owner.
	State(ctx context.Context, peer string, id pack.ID) (*pack.State, error)

	// Read reads blocks of one shard and gives each to take, in order of
	// rows; they are not verified. g is the geometry of the pack; b is valid
	// during the call.
	Read(ctx context.Context, peer string, q wire.ReadRequest, g erasure.Geometry, take func(row int, b []byte, err error)) error

	// Prove asks the peer to prove that it has a block: [digest.VerifyProof] checks it.
	Prove(ctx context.Context, peer string, q wire.ProveRequest) (proof []byte, err error)

	// Store has the peer keep a shard. cell gives the blocks, which stay as
	// they are until Store returns.
	Store(ctx context.Context, peer string, q *wire.StoreRequest, cell func(row int) []byte) error

	// Holders tells the peer who holds packs, up to [wire.MaxPacks].
	Holders(ctx context.Context, peer string, packs []wire.PackHolders) error

	// SetState tells the peer a new state of a pack.
	SetState(ctx context.Context, peer string, st *pack.State) error

	// Group names the group of the peer's public address, "" if it has none.
	Group(peer string) string
}

// Directory answers the few questions there are for the DHT.
type Directory interface {
	// Closest gives the n peers closest to id that take part as holders,
	// closest first, this one among them.
	Closest(ctx context.Context, id pack.ID, n int) ([]string, error)

	// Walk yields ever farther peers, each once, until there are no more.
	Walk(ctx context.Context, id pack.ID) iter.Seq2[string, error]

	// Holders yields peers that announced that they hold the pack.
	Holders(ctx context.Context, id pack.ID) iter.Seq2[string, error]

	// Compare says which of two peers is closer to id: negative, a.
	Compare(id pack.ID, a, b string) int
}

// Shelf keeps the shards that this peer holds, and what it knows about who
// holds the others. [*store.Store] has nearly all of it.
type Shelf interface {
	// Walk gives all packs of which something is held, tombstones among them,
	// in the order of their IDs, from the first that is not below from.
	Walk(ctx context.Context, from pack.ID) iter.Seq2[store.Pack, error]

	// Pack gives one of them; an error that wraps [store.ErrNotFound] where
	// nothing is held of it.
	Pack(id pack.ID) (store.Pack, error)

	// Manifest gives the manifest of a pack held.
	Manifest(id pack.ID) (*pack.Manifest, error)

	// Tombstone gives the state that deleted a pack.
	Tombstone(id pack.ID) (*pack.State, error)

	// ReadCoded appends a verified block to dst; see [store.Store.ReadCoded].
	ReadCoded(id pack.ID, k, m, index, row int, dst []byte) ([]byte, error)

	// UpdateHolders changes the lists of who holds packs: fn is given what is
	// known of each and returns what is to be known, or nil for no change.
	UpdateHolders(ids []pack.ID, fn func(p store.Pack) []store.Holder) error

	// Keep stores a shard here, confirmed, in the place of a damaged one if
	// there is one, and announces it.
	Keep(ctx context.Context, m *pack.Manifest, shard int, holders []wire.Holder, cell func(row int) []byte) error

	// SetState takes a new state, verified; see [store.Store.SetState].
	SetState(st *pack.State) (changed bool, err error)

	// Drop gives up a shard held, of all states with that coding.
	Drop(id pack.ID, index int) error

	// Get and Set read and write notes of the keeper's own.
	Get(key string) ([]byte, error)
	Set(key string, val []byte) error
}

// Clock tells the time and waits.
type Clock interface {
	Now() time.Time

	// After gives a channel that receives once, d from now, and a function
	// that stops it.
	After(d time.Duration) (<-chan time.Time, func())
}
