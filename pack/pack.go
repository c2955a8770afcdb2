// Package pack defines the pack, the unit in which p2pfs codes, places, finds
// and repairs data, and everything that is said about one in public.
//
// A pack is sealed chunks end to end, padded with zeros, at most [MaxLen]
// bytes. It is cut into at most 128 blocks; [Content] is its length and the
// hash of each block, and the hash of that, with its owner's public key, is
// the pack's [ID]. So a pack's name depends on what it holds and whose it is,
// never on how it is coded or where it lies, and whoever knows the ID can check
// any data block from anyone.
//
// [State] is what may change about a pack: how it is coded, when it expires,
// whether it is deleted. The owner signs each state, and the one with the
// highest number holds. A [Manifest] is content and state together: with it any
// block of any shard can be checked, without a key.
//
// Inside packs, a [Ref] says where a chunk is and how to open it, and an
// [Inventory] lists the packs that belong together. A [Builder] fills a pack.
//
// Every format here has exactly one valid encoding: decoding refuses all else,
// and what it accepts encodes to the same bytes.
package pack

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
)

const (
	// MaxLen is the greatest length of a pack in bytes, padding included.
	MaxLen = 32 << 20
	// MinLen is the length below which a pack is not padded down: the least
	// that [Padme] gives.
	MinLen = 4 << 10
	// MaxManifest is the greatest length of an encoded manifest in bytes.
	MaxManifest = 64 << 10
	// MaxBlocks is the greatest number of data blocks of a pack.
	MaxBlocks = 128
)

var (
	// ErrCorrupt is wrapped by every error that says: these bytes are not
	// what they claim to be.
	ErrCorrupt = errors.New("corrupt data")
	// ErrVersion is wrapped by every error that says: these bytes may be
	// good, but this program is too old to read them.
	ErrVersion = errors.New("made by a newer version of p2pfs")
	// ErrSignature is wrapped by errors about a signature that is not the
	// owner's.
	ErrSignature = errors.New("bad signature")
)

// Hash is a BLAKE3 hash of 256 bits.
type Hash = [32]byte

// ID names a pack: BLAKE3 of its owner's public key and the hash of its
// content.
type ID [32]byte

// String gives all 64 hexadecimal digits.
func (i ID) String() string { return hex.EncodeToString(i[:]) }

// Short gives the first 8 hexadecimal digits, for people.
func (i ID) Short() string { return hex.EncodeToString(i[:4]) }

// IsZero reports whether i is the zero ID, which names no pack. In a [Ref] it
// stands for the pack the ref itself is in.
func (i ID) IsZero() bool { return i == ID{} }

// ParseID reads the 64 digits that [ID.String] gives.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("pack ID %.80q: got %d characters, want %d", s, len(s), 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil || id.String() != s {
		return ID{}, fmt.Errorf("pack ID %q: not lower-case hexadecimal", s)
	}
	return id, nil
}

// Network names a network: it is derived from its public key. What is signed for one network
// means nothing in another.
type Network [32]byte

// String gives all 64 hexadecimal digits.
func (n Network) String() string { return hex.EncodeToString(n[:]) }

// Short gives the first 8 hexadecimal digits, for people.
func (n Network) Short() string { return hex.EncodeToString(n[:4]) }

// Short8 gives the 8 bytes by which a link names its network.
func (n Network) Short8() [8]byte { return [8]byte(n[:8]) }

// Owner is the Ed25519 public key of the volume a pack belongs to.
type Owner [32]byte

// String gives all 64 hexadecimal digits.
func (o Owner) String() string { return hex.EncodeToString(o[:]) }

// Short gives the first 8 hexadecimal digits, for people.
func (o Owner) Short() string { return hex.EncodeToString(o[:4]) }

// Padme gives the length to which a pack with n bytes of chunks is padded: at
// least [MinLen], at most [MaxLen], and between the two the next length whose
// mantissa is no longer than its exponent (Padmé, from Nikitin et al.,
// "Reducing Metadata Leakage from Encrypted Files and Communication with
// PURBs", 2019), which costs at most 12 % and leaks O(log log n) bits.
func Padme(n int) int {
	if n <= MinLen {
		return MinLen
	}
	if n >= MaxLen {
		return MaxLen
	}
	e := bits.Len(uint(n)) - 1
	s := bits.Len(uint(e))
	mask := 1<<(e-s) - 1
	return (n + mask) &^ mask
}
