package pack

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
)

const (
	stateMagic   = "p2pS"
	stateVersion = 1
	stateDomain  = "p2pfs pack state v1"

	// stateFixed is the length of an encoded state without parity hashes.
	stateFixed = headerLen + 1 + 3*32 + 8 + 8 + 3*2 + 1 + 2 + ed25519.SignatureSize

	flagDeleted = 1 << 0
	flagGiven   = 1 << 1
)

// State is everything about a pack that may change, signed by its owner. Of
// two states the newer holds ([State.Newer]); coding, renewal and deletion are
// all new states, so that an old one sent again does nothing.
type State struct {
	Network Network
	Owner   Owner
	Content Hash   // of the pack's content, so that ID and signer can be checked without it
	Number  uint64 // see NextNumber
	Deleted bool   // a tombstone: all fields below but Sig are then zero
	Expires uint64 // Unix time in milliseconds; 0: never
	K, M    int    // the scheme as it was asked for
	Given   bool   // the scheme was given by the user: it is never changed by itself
	Coded   int    // data shards of this pack (k′), at most K: a small pack has fewer
	Coder   uint8  // erasure.CoderVandermonde
	// Parity holds the hashes of the parity blocks, those of shard Coded
	// first, row by row, then the next shard's. It is empty where Coded is 1:
	// every shard then is the data itself, which the content has hashes of.
	Parity []Hash
	Sig    [ed25519.SignatureSize]byte
}

// NewState describes a pack with the given content coded by s; parity holds
// the hashes that [Code] gave. It is not signed yet.
func NewState(network Network, owner Owner, content Content, s erasure.Scheme, given bool, number uint64, parity []Hash) *State {
	return &State{
		Network: network,
		Owner:   owner,
		Content: content.Hash(),
		Number:  number,
		K:       s.K,
		M:       s.M,
		Given:   given,
		Coded:   erasure.NewGeometry(content.Len, s).K,
		Coder:   erasure.CoderVandermonde,
		Parity:  parity,
	}
}

// Tombstone gives the state that deletes the pack s is about. It is not signed
// yet.
func (s *State) Tombstone(number uint64) *State {
	return &State{Network: s.Network, Owner: s.Owner, Content: s.Content, Number: number, Deleted: true}
}

// Scheme is the scheme the pack was asked to be coded by.
func (s *State) Scheme() erasure.Scheme { return erasure.Scheme{K: s.K, M: s.M} }

// ID is the ID of the pack that s is about.
func (s *State) ID() ID { return IDOf(s.Owner, s.Content) }

// Expired reports whether the pack need not be kept at the time now.
func (s *State) Expired(now time.Time) bool {
	return s.Expires != 0 && now.UnixMilli() >= 0 && uint64(now.UnixMilli()) >= s.Expires
}

// NextNumber gives the number of a state made now that follows one with the
// number last (0: none): milliseconds since 1970, or last + 1 if that is more,
// so that clocks that run backwards do no harm.
func NextNumber(now time.Time, last uint64) uint64 {
	return max(uint64(max(now.UnixMilli(), 0)), last+1)
}

// Newer reports whether s holds against than, which may be nil: it has the
// higher number or, with the same number, the lower hash.
func (s *State) Newer(than *State) bool {
	if than == nil {
		return true
	}
	if s.Number != than.Number {
		return s.Number > than.Number
	}
	a, b := s.Hash(), than.Hash()
	return bytes.Compare(a[:], b[:]) < 0
}

// Hash is the hash of the encoded state, signature included.
func (s *State) Hash() Hash { return digest.Of(s.Encode()) }

// Sign signs s with the private key that belongs to its owner.
func (s *State) Sign(priv ed25519.PrivateKey) {
	copy(s.Sig[:], ed25519.Sign(priv, s.message()))
}

// Verify checks that s is well-formed and signed by its owner. It says nothing
// about the network, nor about the content: see [Manifest.Verify].
func (s *State) Verify() error {
	if err := s.check(); err != nil {
		return err
	}
	if !ed25519.Verify(s.Owner[:], s.message(), s.Sig[:]) {
		return fmt.Errorf("state %d of pack %s: %w", s.Number, s.ID().Short(), ErrSignature)
	}
	return nil
}

// message is what the signature covers: the domain, then the encoded state
// without the signature, which has version and network in it.
func (s *State) message() []byte {
	b := make([]byte, 0, len(stateDomain)+s.encodedLen())
	b = append(b, stateDomain...)
	return s.appendUnsigned(b)
}

func (s *State) encodedLen() int { return stateFixed + 32*len(s.Parity) }

// Encode gives the one encoding of s.
func (s *State) Encode() []byte {
	return s.append(make([]byte, 0, s.encodedLen()))
}

func (s *State) append(b []byte) []byte {
	return append(s.appendUnsigned(b), s.Sig[:]...)
}

func (s *State) appendUnsigned(b []byte) []byte {
	b = appendHeader(b, stateMagic, stateVersion)
	var flags byte
	if s.Deleted {
		flags |= flagDeleted
	}
	if s.Given {
		flags |= flagGiven
	}
	b = append(b, flags)
	b = append(b, s.Network[:]...)
	b = append(b, s.Owner[:]...)
	b = append(b, s.Content[:]...)
	b = binary.BigEndian.AppendUint64(b, s.Number)
	b = binary.BigEndian.AppendUint64(b, s.Expires)
	b = binary.BigEndian.AppendUint16(b, uint16(s.K))
	b = binary.BigEndian.AppendUint16(b, uint16(s.M))
	b = binary.BigEndian.AppendUint16(b, uint16(s.Coded))
	b = append(b, s.Coder)
	b = binary.BigEndian.AppendUint16(b, uint16(len(s.Parity)))
	for i := range s.Parity {
		b = append(b, s.Parity[i][:]...)
	}
	return b
}

// DecodeState reads what [State.Encode] gave. It does not verify the
// signature.
func DecodeState(b []byte) (*State, error) {
	r := reader{b: b}
	if len(b) > MaxManifest {
		r.fail("%d bytes are too many for a state", len(b))
	}
	r.header("pack state", stateMagic, stateVersion)
	flags := r.u8()
	if flags&^(flagDeleted|flagGiven) != 0 {
		r.fail("unknown flags %#x", flags)
	}
	s := &State{
		Deleted: flags&flagDeleted != 0,
		Given:   flags&flagGiven != 0,
		Network: r.b32(),
		Owner:   r.b32(),
		Content: r.b32(),
		Number:  r.u64(),
		Expires: r.u64(),
		K:       int(r.u16()),
		M:       int(r.u16()),
		Coded:   int(r.u16()),
		Coder:   r.u8(),
	}
	s.Parity = r.hashes(int(r.u16()))
	copy(s.Sig[:], r.take(len(s.Sig)))
	err := r.end()
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return nil, fmt.Errorf("decode pack state: %w", err)
	}
	return s, nil
}

// check refuses what no honest owner would sign, as far as it can be told
// without the content.
func (s *State) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
	}
	if s.Deleted {
		if s.Expires != 0 || s.K != 0 || s.M != 0 || s.Given || s.Coded != 0 || s.Coder != 0 || len(s.Parity) != 0 {
			return bad("a deleted state with a coding")
		}
		return nil
	}
	if err := s.Scheme().Valid(); err != nil {
		return bad("%v", err)
	}
	if s.Coded < 1 || s.Coded > s.K {
		return bad("%d data shards under scheme %s", s.Coded, s.Scheme())
	}
	if s.Coder == 0 {
		return bad("no coder")
	}
	if s.Coder != erasure.CoderVandermonde {
		return fmt.Errorf("coder %d: %w", s.Coder, ErrVersion)
	}
	switch {
	case s.Coded == 1 || s.M == 0:
		if len(s.Parity) != 0 {
			return bad("%d parity hashes, want none", len(s.Parity))
		}
	case len(s.Parity) == 0 || len(s.Parity)%s.M != 0 || len(s.Parity)/s.M > MaxBlocks:
		return bad("%d parity hashes for %d parity shards", len(s.Parity), s.M)
	}
	return nil
}

// Equal reports whether s and t are the same in every bit.
func (s *State) Equal(t *State) bool {
	return s == t || s != nil && t != nil && slices.Equal(s.Encode(), t.Encode())
}
