package volume

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

const (
	headMagic   = "p2pH"
	headVersion = 1
	headDomain  = "p2pfs head"

	readersContext   = "p2pfs 2026-11 head for readers"
	verifiersContext = "p2pfs 2026-11 head for verifiers"
	writerContext    = "p2pfs 2026-11 writer of heads"

	// MaxHead is the length in bytes of the longest encoded head of any
	// version; those of this one have at most 2,055.
	MaxHead = 4096
	// MaxParents is how many heads a head may have for parents.
	MaxParents = 8
	// MaxSeen is how many writers a head tells of, its own among them.
	MaxSeen = 64
	// MaxTips is how many tips a volume has: [Tips] gives no more.
	MaxTips = 16

	// readersLen is the length of what is sealed for readers, padded so that
	// it shows neither the writer nor whether there is a history. It has room
	// for another two refs.
	readersLen = 512
	tagLen     = 16

	flagSnapshot = 1 << 0
)

// HeadHash names a head: BLAKE3 of its encoding.
type HeadHash [32]byte

// String gives all 64 hexadecimal digits.
func (h HeadHash) String() string { return hex.EncodeToString(h[:]) }

// Short gives the first 8 hexadecimal digits, for people.
func (h HeadHash) Short() string { return hex.EncodeToString(h[:4]) }

// Writer is the pseudonym of who writes heads of a volume: the same in all of
// them, another in every other volume.
type Writer [8]byte

// WriterOf gives the pseudonym of a peer in the volume with that read key.
// Only who can read the volume can tell whose it is.
func WriterOf(read [32]byte, peer string) Writer {
	d := digest.Derive(writerContext, read[:], []byte(peer))
	return Writer(d[:8])
}

// Seen is the last head of a writer that a head builds on.
type Seen struct {
	Writer Writer
	Number uint64
}

// Head is a signed, numbered pointer to the state of a volume. What it points
// to is sealed, for readers ([Head.Open]) and for verifiers
// ([Head.Inventory]); what is open is what those need who keep it, hold no key
// and have to tell which heads of a volume are its tips.
type Head struct {
	Owner   pack.Owner // names the volume
	Number  uint64     // 1 + the highest of the parents'; 1 without
	Writer  Writer
	Parents []HeadHash // at most MaxParents, ascending; none: the first head
	Seen    []Seen     // by writer, ascending: itself, and all it descends from up to MaxSeen writers

	salt      [32]byte
	readers   [readersLen + tagLen]byte
	verifiers [pack.RefLen + tagLen]byte
	sig       [ed25519.SignatureSize]byte
}

// HeadContent is what a head points to, and what only readers learn of it.
type HeadContent struct {
	Time      time.Time // to the millisecond, by the writer's clock
	Snapshot  bool      // kept until it is pruned; others thin out by themselves, see [Thin]
	Peer      string    // ID of who wrote it, 1 to 64 bytes
	Root      pack.Ref  // the entry of the tree; like those below never with a zero pack
	History   pack.Ref  // see [ReadHistory]; zero: none
	Dying     pack.Ref  // see [ReadDying]; zero: none
	Inventory pack.Ref  // of all that is to be kept; verifiers learn this, and nothing else
}

// NewHead makes the head that follows parents, at most [MaxParents] heads of
// the volume in any order; none makes the first. The salt is read from rand,
// which must never give the same twice.
func NewHead(network pack.Network, keys *Keys, parents []*Head, writer Writer, c HeadContent, rand io.Reader) (*Head, error) {
	h := &Head{Owner: keys.Public(), Number: 1, Writer: writer}
	seen := make(map[Writer]uint64)
	for _, p := range parents {
		if p.Owner != h.Owner {
			return nil, fmt.Errorf("new head: parent %s is of volume %s, not %s", p.Hash().Short(), p.Owner.Short(), h.Owner.Short())
		}
		if p.Number == math.MaxUint64 {
			return nil, fmt.Errorf("new head: parent %s has the last number there is", p.Hash().Short())
		}
		h.Number = max(h.Number, p.Number+1)
		h.Parents = append(h.Parents, p.Hash())
		for _, s := range p.Seen {
			seen[s.Writer] = max(seen[s.Writer], s.Number)
		}
	}
	slices.SortFunc(h.Parents, HeadHash.compare)
	h.Parents = slices.Compact(h.Parents)
	seen[writer] = h.Number
	h.Seen = newestSeen(seen)
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("new head: %w", err)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("new head: %w", err)
	}
	if _, err := io.ReadFull(rand, h.salt[:]); err != nil {
		return nil, fmt.Errorf("new head: salt: %w", err)
	}
	h.aead(readersContext, keys.Read).Seal(h.readers[:0], zeroNonce[:], c.encode(), h.appendOpen(nil))
	h.aead(verifiersContext, keys.Verify).Seal(h.verifiers[:0], zeroNonce[:], c.Inventory.Append(nil), h.appendOpen(nil))
	h.sign(network, keys.Owner)
	return h, nil
}

// newestSeen gives the MaxSeen with the highest numbers, by writer. What goes
// can only make a head that is followed look like one that is not.
func newestSeen(seen map[Writer]uint64) []Seen {
	all := make([]Seen, 0, len(seen))
	for w, n := range seen {
		all = append(all, Seen{w, n})
	}
	byWriter := func(a, b Seen) int { return bytes.Compare(a.Writer[:], b.Writer[:]) }
	slices.SortFunc(all, func(a, b Seen) int {
		return cmp.Or(cmp.Compare(b.Number, a.Number), byWriter(a, b))
	})
	all = all[:min(len(all), MaxSeen)]
	slices.SortFunc(all, byWriter)
	return all
}

// Encode gives the one encoding of h.
func (h *Head) Encode() []byte {
	return append(h.appendUnsigned(make([]byte, 0, MaxHead)), h.sig[:]...)
}

// appendOpen appends what is not sealed, up to the salt: that is what the sealed
// parts are bound to.
func (h *Head) appendOpen(b []byte) []byte {
	b = append(b, headMagic...)
	b = append(b, headVersion)
	b = append(b, h.Owner[:]...)
	b = binary.BigEndian.AppendUint64(b, h.Number)
	b = append(b, h.Writer[:]...)
	b = append(b, byte(len(h.Parents)))
	for _, p := range h.Parents {
		b = append(b, p[:]...)
	}
	b = append(b, byte(len(h.Seen)))
	for _, s := range h.Seen {
		b = append(b, s.Writer[:]...)
		b = binary.BigEndian.AppendUint64(b, s.Number)
	}
	return append(b, h.salt[:]...)
}

func (h *Head) appendUnsigned(b []byte) []byte {
	b = h.appendOpen(b)
	b = append(b, h.readers[:]...)
	return append(b, h.verifiers[:]...)
}

// DecodeHead reads what [Head.Encode] gave. It does not verify the signature.
func DecodeHead(b []byte) (*Head, error) {
	h, err := decodeHead(b)
	if err != nil {
		return nil, fmt.Errorf("decode head: %w", err)
	}
	return h, nil
}

func decodeHead(b []byte) (*Head, error) {
	r := reader{b: b}
	if len(b) > MaxHead {
		r.fail("%d bytes are too many for a head", len(b))
	}
	r.header("head", headMagic, headVersion)
	h := &Head{Owner: r.b32(), Number: r.u64()}
	copy(h.Writer[:], r.take(len(h.Writer)))
	for n := r.u8(); n > 0 && r.err == nil; n-- {
		h.Parents = append(h.Parents, r.b32())
	}
	for n := r.u8(); n > 0 && r.err == nil; n-- {
		var s Seen
		copy(s.Writer[:], r.take(len(s.Writer)))
		s.Number = r.u64()
		h.Seen = append(h.Seen, s)
	}
	h.salt = r.b32()
	copy(h.readers[:], r.take(len(h.readers)))
	copy(h.verifiers[:], r.take(len(h.verifiers)))
	copy(h.sig[:], r.take(len(h.sig)))
	if err := r.end(); err != nil {
		return nil, err
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	return h, nil
}

// check refuses what [NewHead] would not make, as far as it can be told without
// the parents.
func (h *Head) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
	}
	if h.Number == 0 || (h.Number == 1) != (len(h.Parents) == 0) {
		return bad("head %d with %d parents", h.Number, len(h.Parents))
	}
	if err := checkParents(h.Parents); err != nil {
		return err
	}
	if len(h.Seen) > MaxSeen {
		return bad("a head that has seen %d writers", len(h.Seen))
	}
	own := false
	for i, s := range h.Seen {
		if i > 0 && bytes.Compare(h.Seen[i-1].Writer[:], s.Writer[:]) >= 0 {
			return bad("writers not in order")
		}
		if s.Writer == h.Writer && s.Number == h.Number {
			own = true
		} else if s.Number == 0 || s.Number >= h.Number {
			return bad("head %d that has seen head %d", h.Number, s.Number)
		}
	}
	if !own {
		return bad("a head that has not seen itself")
	}
	return nil
}

// checkParents checks that they are in order, and not too many.
func checkParents(parents []HeadHash) error {
	if len(parents) > MaxParents {
		return fmt.Errorf("%w: a head with %d parents", ErrCorrupt, len(parents))
	}
	for i, p := range parents {
		if i > 0 && parents[i-1].compare(p) >= 0 {
			return fmt.Errorf("%w: parents not in order", ErrCorrupt)
		}
	}
	return nil
}

// Hash names h. Heads that differ in anything, be it the signature, have
// different hashes.
func (h *Head) Hash() HeadHash { return digest.Of(h.Encode()) }

func (h HeadHash) compare(g HeadHash) int { return bytes.Compare(h[:], g[:]) }

// Verify checks that h is well-formed and that its owner signed it for that
// network: else the error wraps [pack.ErrSignature].
func (h *Head) Verify(network pack.Network) error {
	if err := h.check(); err != nil {
		return err
	}
	if !ed25519.Verify(h.Owner[:], h.message(network), h.sig[:]) {
		return fmt.Errorf("head %d of volume %s: %w", h.Number, h.Owner.Short(), pack.ErrSignature)
	}
	return nil
}

func (h *Head) sign(network pack.Network, owner ed25519.PrivateKey) {
	copy(h.sig[:], ed25519.Sign(owner, h.message(network)))
}

// message is what the signature covers.
func (h *Head) message(network pack.Network) []byte {
	b := make([]byte, 0, len(headDomain)+2+len(network)+MaxHead)
	b = append(b, headDomain...)
	b = append(b, 0, headVersion)
	b = append(b, network[:]...)
	return h.appendUnsigned(b)
}

// zeroNonce serves, since a key seals once: the salt is new in each head.
var zeroNonce [12]byte

// aead seals and opens a part of h.
func (h *Head) aead(context string, key [32]byte) cipher.AEAD {
	k := digest.Derive(context, key[:], h.salt[:])
	return must(cipher.NewGCM(must(aes.NewCipher(k[:]))))
}

func (h *Head) unseal(context string, key [32]byte, sealed []byte) ([]byte, error) {
	plain, err := h.aead(context, key).Open(nil, zeroNonce[:], sealed, h.appendOpen(nil))
	if err != nil {
		return nil, fmt.Errorf("%w: it does not open with this key", ErrCorrupt)
	}
	return plain, nil
}

// Open gives what a reader learns of h, which is all.
func (h *Head) Open(read [32]byte) (HeadContent, error) {
	plain, err := h.unseal(readersContext, read, h.readers[:])
	var c HeadContent
	if err == nil {
		c, err = decodeContent(plain)
	}
	if err == nil {
		c.Inventory, err = h.inventory(VerifyKey(read))
	}
	if err == nil {
		err = c.check()
	}
	if err != nil {
		return HeadContent{}, fmt.Errorf("open head %s: %w", h.Hash().Short(), err)
	}
	return c, nil
}

// Inventory gives what a verifier learns of h: where the inventory is of all
// packs that it needs, see [ReadInventory].
func (h *Head) Inventory(verify [32]byte) (pack.Ref, error) {
	ref, err := h.inventory(verify)
	if err != nil {
		return pack.Ref{}, fmt.Errorf("open head %s: %w", h.Hash().Short(), err)
	}
	return ref, nil
}

func (h *Head) inventory(verify [32]byte) (pack.Ref, error) {
	plain, err := h.unseal(verifiersContext, verify, h.verifiers[:])
	if err != nil {
		return pack.Ref{}, err
	}
	ref, err := pack.DecodeRef(plain)
	if err == nil {
		err = checkRoot(ref)
	}
	return ref, err
}

// encode gives what is sealed for readers: all but the inventory.
func (c *HeadContent) encode() []byte {
	b := appendTime(make([]byte, 0, readersLen), c.Time)
	b = append(b, snapshotFlags(c.Snapshot))
	b = appendPeer(b, c.Peer)
	b = c.Root.Append(b)
	b = c.History.Append(b)
	b = c.Dying.Append(b)
	return b[:readersLen]
}

func snapshotFlags(snapshot bool) byte {
	if snapshot {
		return flagSnapshot
	}
	return 0
}

// snapshot reads what snapshotFlags gives.
func (r *reader) snapshot() bool {
	flags := r.u8()
	if flags&^flagSnapshot != 0 {
		r.fail("unknown flags %#x", flags)
	}
	return flags == flagSnapshot
}

// decodeContent reads what encode gave, which is not checked yet.
func decodeContent(b []byte) (HeadContent, error) {
	r := reader{b: b}
	c := HeadContent{
		Time:     r.time(),
		Snapshot: r.snapshot(),
		Peer:     r.peer(),
		Root:     r.ref(false),
		History:  r.ref(true),
		Dying:    r.ref(true),
	}
	if len(b) != readersLen {
		r.fail("%d bytes for readers", len(b))
	}
	for _, pad := range r.take(len(r.b)) {
		if pad != 0 {
			r.fail("padded with other than zeros")
		}
	}
	return c, r.end()
}

// check refuses what no head can point to.
func (c *HeadContent) check() error {
	if err := checkTime(c.Time); err != nil {
		return err
	}
	if err := checkPeer(c.Peer); err != nil {
		return err
	}
	for _, r := range []pack.Ref{c.Root, c.Inventory} {
		if err := checkRoot(r); err != nil {
			return err
		}
	}
	for _, r := range []pack.Ref{c.History, c.Dying} {
		if r == (pack.Ref{}) {
			continue
		}
		if err := r.Check(); err != nil {
			return err
		}
		if r.Pack.IsZero() {
			return fmt.Errorf("%w: a head refers to its own pack", ErrCorrupt)
		}
	}
	return nil
}

// Follows reports whether g is an ancestor of h, as far as h tells: g is among
// its parents, or h has seen a head of g's writer with g's number or a higher
// one. That is right as long as a writer builds each head on its last. Of two
// heads with one number neither follows the other, so two that a writer has
// made with one number, because it had lost the first, both stay; but what
// follows one of them then counts as following the other too.
func (h *Head) Follows(g *Head) bool { return h.follows(g, g.Hash) }

func (h *Head) follows(g *Head, hash func() HeadHash) bool {
	// The number rises along every way there is, so nothing goes in a circle
	// whatever a head says of itself.
	if h.Owner != g.Owner || h.Number <= g.Number {
		return false
	}
	i, ok := slices.BinarySearchFunc(h.Seen, g.Writer, func(s Seen, w Writer) int { return bytes.Compare(s.Writer[:], w[:]) })
	return ok && h.Seen[i].Number >= g.Number || slices.Contains(h.Parents, hash())
}

// Tips gives the heads that no other follows, each once, those with higher
// numbers first and of those with one number the lower hash; of more than
// [MaxTips] the first.
func Tips(heads []*Head) []*Head {
	byHash := make(map[HeadHash]*Head, len(heads))
	for _, h := range heads {
		byHash[h.Hash()] = h
	}
	order := slices.SortedFunc(maps.Keys(byHash), func(a, b HeadHash) int {
		return cmp.Or(cmp.Compare(byHash[b].Number, byHash[a].Number), a.compare(b))
	})
	var tips []*Head
	for i, hash := range order {
		if len(tips) == MaxTips {
			break
		}
		followed := slices.ContainsFunc(order[:i], func(other HeadHash) bool {
			return byHash[other].follows(byHash[hash], func() HeadHash { return hash })
		})
		if !followed {
			tips = append(tips, byHash[hash])
		}
	}
	return tips
}
