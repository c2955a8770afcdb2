// Package wire is the protocol between peers: what they ask each other and how
// it looks in bytes, on any [io.ReadWriter].
//
// A stream carries one request. The asking side calls a function of this
// package on it ([Store], [Read], [Have], ...) and closes it afterwards; the
// other side calls [Serve], which reads the request, has a [Handler] do the
// work and writes the reply. Requests and replies are frames: a type, a length
// of bounded size, a header. Blocks follow raw, without any framing of their
// own, for both sides know their lengths. A request that is not granted is
// answered with a refusal, which has a code and a reason and comes out at the
// asking side as a [*Refusal].
//
// Deadlines and cancellation are the caller's: it sets deadlines on the stream
// and, to give up, resets it; every function then returns with the stream's
// error. No function leaves a goroutine behind.
//
// Blocks that are stored are verified here, one by one, against the manifest
// that came with them; blocks that are read, and proofs of them, are the
// reader's to verify. What a
// peer sends is bounded before it is allocated, has one valid encoding, and
// never makes this package panic.
//
// The versions of the protocol have names of their own ([Protocol]), so that a
// node can serve several side by side and a stream is agreed to be of one.
package wire

import (
	"errors"
	"fmt"
	"time"

	"github.com/p2pfs/p2pfs/pack"
)

// Version is the newest version of the protocol that this package speaks. The
// asking functions speak it.
const Version = 1

// Versions lists the versions that [Serve] speaks, newest first.
func Versions() []int { return []int{1} }

// Protocol names a version of the protocol where streams are agreed on.
func Protocol(version int) string { return fmt.Sprintf("/p2pfs/%d.0.0", version) }

// Limits of messages.
const (
	MaxIDs     = 1024      // pack IDs in one [Have]
	MaxPacks   = 256       // packs in one [Holders]
	MaxHolders = 256       // holders of one pack
	MaxPeer    = 64        // bytes of a peer ID
	MaxBlock   = 256 << 10 // bytes of a block
	MaxBlocks  = 128       // blocks in one [Read]
	MaxList    = 64 << 10  // bytes of a deny list
	MaxReason  = 256       // bytes of a refusal's reason
	MaxName    = 64        // bytes of a zone, of a version
	MaxTips    = 16        // heads of a volume
	MaxHead    = 4 << 10   // bytes of a head
	maxShards  = 256
)

// ErrProtocol is wrapped by errors that say: what the peer sent is not this
// protocol. The peer is broken or lies.
var ErrProtocol = errors.New("peer broke the protocol")

// Holder is a peer that keeps a shard of a pack.
type Holder struct {
	Peer  string // the peer's ID in its raw bytes, 1 to [MaxPeer]
	Shard int
}

// StoreRequest asks a peer to keep a shard.
type StoreRequest struct {
	// Put names the put that the shard belongs to: until a list of holders
	// came, the shard is provisional and lives by the put's signs of life.
	// Zero: the shard is confirmed at once.
	Put      [16]byte
	Manifest *pack.Manifest
	Shard    int
	// Holders, where there are any, makes the request a hand-over: the
	// shard's present holder gives it away and says who the others are. Put
	// is then zero. The order is of no importance; a receiver gets them
	// ordered by shard, then peer.
	Holders []Holder
}

// ReadRequest asks for blocks of one shard.
type ReadRequest struct {
	ID    pack.ID
	K, M  int // the pack's data shards (k′, not the scheme's k) and parity shards
	Shard int
	Row   int // of the first block
	Count int // of blocks, 1 to [MaxBlocks]
}

// ProveRequest asks for the proof of one chunk of a block, that a peer has it.
type ProveRequest struct {
	ID    pack.ID
	K, M  int // the pack's data shards (k′, not the scheme's k) and parity shards
	Shard int
	Row   int // of the block, below [MaxBlocks]
	Off   int // of a byte in the chunk, within the block
}

// Holding is what a peer has of a pack. The zero Holding: nothing.
type Holding struct {
	Held        bool   // it keeps a shard
	Deleted     bool   // it knows that the pack is deleted; K, M and Shard are zero
	Number      uint64 // of the newest state it knows
	Shard       int
	K, M        int  // of that state: the pack's data shards (k′) and parity shards
	Provisional bool // the put that brought the shard has not been completed
	Damaged     bool // some block of the shard is known to be unreadable; not told of a provisional one
}

// PackHolders says who holds a pack: the full list.
type PackHolders struct {
	ID      pack.ID
	Number  uint64 // of the state whose shards they hold
	Holders []Holder
}

// Facts is what a peer says about itself.
type Facts struct {
	Free     uint64    // bytes it would still take
	Capacity uint64    // bytes it offers in all; 0: what the disk gives
	Held     uint64    // bytes it keeps
	Shards   uint64    // shards it keeps
	Zone     string    // where it stands, in its operator's words; "": not said
	Version  string    // of the program
	Now      time.Time // its clock, to the millisecond
	Boot     uint64    // another number each time its store is opened
}
