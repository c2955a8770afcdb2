// Package volume turns files into packs and back, and rights into text.
//
// Every pack belongs to a volume, which is made of one [Seed]: its owner key,
// the secret its chunks are sealed with and its read and verify keys derive
// from that. A [Link] is a right, written as text.
//
// A file becomes an [Entry]: its name, mode, time and size, and either its
// content, if tiny, or refs to the chunks of it. Long lists of refs nest.
// Content is in data packs; entries, lists of refs and inventories are in
// metadata packs, which the caller may make more redundant. The entry at a
// root names an inventory: the sorted IDs of all packs under it.
//
// A [Head] is a signed, numbered pointer to a root and its inventory, and names
// the heads it follows; [Tips] are those that no other follows. What heads
// pointed to before is in a history, of which [Policy] and [Thin] say what
// stays.
//
// [WriteFile] and [OpenFile] do it all in bounded memory, whatever the size of
// the file. They meet the world through [Sink] and [Source], so they run on a
// map as well as on a network. What is read is believed only as far as it
// checks: packs from others may hold anything, and the worst that comes of it
// is an error that wraps [ErrCorrupt].
package volume

import (
	"context"
	"errors"

	"github.com/p2pfs/p2pfs/pack"
)

var (
	// ErrCorrupt is wrapped by errors about packs that do not hold what their
	// refs promise. It is [pack.ErrCorrupt].
	ErrCorrupt = pack.ErrCorrupt
	// ErrChanged is wrapped when a file had another length when it was read
	// than before.
	ErrChanged = errors.New("file changed while it was read")
	// ErrTooLarge is wrapped when a file needs more packs than one inventory
	// can list, which is some 28 TiB in full packs.
	ErrTooLarge = errors.New("file too large")
)

// A Sink stores packs.
type Sink interface {
	// PutPack takes a finished pack; meta tells metadata from content. It
	// returns the pack's ID as soon as that is known and stores the pack
	// behind the caller's back. Until it calls release, which it does once,
	// data is its own; if it fails it must not look at data any more.
	PutPack(ctx context.Context, data []byte, meta bool, release func()) (pack.ID, error)

	// Wait returns when all packs put before are stored durably, or with the
	// error of one that cannot be.
	Wait(ctx context.Context) error
}

// A Source fetches packs.
type Source interface {
	// Open begins to fetch the bytes [off, off+n) of a pack and returns at
	// once; what goes wrong later is told by the range. A pack that is
	// shorter than off+n is an error that wraps ErrCorrupt.
	Open(ctx context.Context, id pack.ID, off, n int) (Range, error)
}

// A Range is a part of a pack that is being fetched. Its methods may be called
// by several goroutines.
type Range interface {
	// Bytes waits for n bytes at off, an offset in the pack, not in the
	// range, to be there and verified. The view it gives is good until Close.
	Bytes(ctx context.Context, off, n int) ([]byte, error)

	// Close ends the fetching. It is called once, after the last Bytes.
	Close()
}
