package volume

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

// Kind says what a link gives the right to. The numbers are in the text of
// links: add at the end, never reorder. There is room for 15.
type Kind uint8

// The kinds of links.
const (
	KindFile         Kind = 1 // read one file
	KindTree         Kind = 2 // read a tree of files
	KindVerify       Kind = 3 // check and repair what is under a root, read nothing
	KindVolumeRead   Kind = 4 // read a volume, now and later
	KindVolumeVerify Kind = 5 // check and repair a volume, now and later, read nothing
	KindVolumeWrite  Kind = 6 // everything
)

func (k Kind) String() string {
	switch k {
	case KindFile:
		return "a file"
	case KindTree:
		return "a tree"
	case KindVerify:
		return "an inventory"
	case KindVolumeRead:
		return "a volume, to read it"
	case KindVolumeVerify:
		return "a volume, to verify it"
	case KindVolumeWrite:
		return "a volume, to write it"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

const (
	linkPrefix      = "p2pfs:"
	linkVersion     = 1
	linkChecksum    = 4
	checksumContext = "p2pfs 2026-11 link checksum"

	// linkHeader is version, kind and network.
	linkHeader = 1 + 8

	// A root is what a link may point to. Its place is written in 64 bits,
	// from the top: 25 for the offset in its pack, 20 for the length, 19 for
	// the length once it is open.
	rootLenBits  = 20
	rootSizeBits = 19
	maxRootLen   = 1<<rootLenBits - 1
	maxRootSize  = 1<<rootSizeBits - 1
)

var (
	// ErrLink is wrapped when text is no link: a character is wrong, missing
	// or too many.
	ErrLink = errors.New("mistyped link")
	// ErrKind is wrapped when a link is good, but gives another right than is
	// asked for.
	ErrKind = errors.New("wrong kind of link")
)

// Link is the right to something. Which fields count depends on the kind.
type Link struct {
	Kind    Kind
	Network [8]byte    // how the network's ID begins
	Root    pack.Ref   // KindFile, KindTree: the entry; KindVerify: the inventory
	Owner   pack.Owner // KindVolumeRead, KindVolumeVerify
	Key     [32]byte   // KindVolumeRead: the read key; KindVolumeVerify: the verify key
	Seed    Seed       // KindVolumeWrite
}

// String gives the link as text, about 120 characters. Who has the text has
// the right: it does not belong into logs.
func (l Link) String() string {
	b := make([]byte, 0, 96)
	b = append(b, linkVersion<<4|byte(l.Kind))
	b = append(b, l.Network[:]...)
	switch l.Kind {
	case KindFile, KindTree, KindVerify:
		b = append(b, l.Root.Pack[:]...)
		b = binary.BigEndian.AppendUint64(b, uint64(l.Root.Off)<<(rootLenBits+rootSizeBits)|uint64(l.Root.Len)<<rootSizeBits|l.Root.Size)
		b = append(b, l.Root.Key[:]...)
	case KindVolumeRead, KindVolumeVerify:
		b = append(b, l.Owner[:]...)
		b = append(b, l.Key[:]...)
	case KindVolumeWrite:
		b = append(b, l.Seed[:]...)
	}
	sum := digest.Derive(checksumContext, b)
	b = append(b, sum[:linkChecksum]...)
	return linkPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseLink reads the text of a link of any kind; white space around it does
// not count.
func ParseLink(text string) (Link, error) {
	l, err := parseLink(strings.TrimSpace(text))
	if err != nil {
		return Link{}, err
	}
	return l, nil
}

// CutPath cuts a source in two: the text of a link, which has no slash, and the
// path in the tree that it leads to. Below tells whether there is one.
func CutPath(source string) (link, path string, below bool) {
	return strings.Cut(source, "/")
}

// maxLinkText bounds the text of links, those of newer versions included.
const maxLinkText = 1024

func parseLink(text string) (l Link, err error) {
	enc, ok := strings.CutPrefix(text, linkPrefix)
	if !ok {
		return l, fmt.Errorf("%w: links begin with %q", ErrLink, linkPrefix)
	}
	if len(enc) > maxLinkText || strings.ContainsAny(enc, "\r\n") { // which the decoder would skip
		return l, fmt.Errorf("%w: too long, or on more than one line", ErrLink)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(enc)
	if err != nil {
		if i, ok := errors.AsType[base64.CorruptInputError](err); ok && int(i) < len(enc)-1 {
			return l, fmt.Errorf("%w: character %d cannot be", ErrLink, len(linkPrefix)+int(i)+1)
		}
		return l, fmt.Errorf("%w: it does not end as links do", ErrLink)
	}
	// Whatever the version, what goes before the last 4 bytes is checked by
	// them: so a typing error is never taken for the future.
	n := len(b) - linkChecksum
	if n < linkHeader {
		return l, fmt.Errorf("%w: too short", ErrLink)
	}
	b, tail := b[:n], b[n:]
	if sum := digest.Derive(checksumContext, b); string(sum[:linkChecksum]) != string(tail) {
		return l, fmt.Errorf("%w: the checksum is wrong, so a character is wrong, missing or too many", ErrLink)
	}
	if v := b[0] >> 4; v > linkVersion {
		return l, fmt.Errorf("link: %w", pack.ErrVersion)
	} else if v != linkVersion {
		return l, fmt.Errorf("%w: version %d", ErrLink, v)
	}
	l.Kind = Kind(b[0] & 15)
	copy(l.Network[:], b[1:])
	p := b[linkHeader:]
	want := 0
	switch l.Kind {
	case KindFile, KindTree, KindVerify:
		want = 32 + 8 + 32
	case KindVolumeRead, KindVolumeVerify:
		want = 32 + 32
	case KindVolumeWrite:
		want = 32
	case 0:
		return l, fmt.Errorf("%w: no kind", ErrLink)
	default:
		return l, fmt.Errorf("link of %s: %w", l.Kind, pack.ErrVersion)
	}
	if len(p) != want {
		return l, fmt.Errorf("%w: %d bytes, want %d", ErrLink, len(p), want)
	}
	switch l.Kind {
	case KindFile, KindTree, KindVerify:
		place := binary.BigEndian.Uint64(p[32:])
		l.Root = pack.Ref{
			Pack: pack.ID(p[:32]),
			Off:  uint32(place >> (rootLenBits + rootSizeBits)),
			Len:  uint32(place >> rootSizeBits & maxRootLen),
			Size: place & maxRootSize,
			Key:  [32]byte(p[40:]),
		}
		if err := checkRoot(l.Root); err != nil {
			return l, fmt.Errorf("%w: %w", ErrLink, err)
		}
	case KindVolumeRead, KindVolumeVerify:
		copy(l.Owner[:], p)
		copy(l.Key[:], p[32:])
	case KindVolumeWrite:
		copy(l.Seed[:], p)
	}
	return l, nil
}

// checkRoot refuses what no link can point to.
func checkRoot(r pack.Ref) error {
	if err := r.Check(); err != nil {
		return err
	}
	if r.Pack.IsZero() || r.Len > maxRootLen || r.Size > maxRootSize || r.Size == 0 {
		return fmt.Errorf("%w: a root of %d bytes", ErrCorrupt, r.Size)
	}
	return nil
}

// FileLink gives the link to a file whose entry is at root.
func FileLink(network pack.Network, root pack.Ref) Link {
	return Link{Kind: KindFile, Network: network.Short8(), Root: root}
}

// VerifyLink gives the link to the inventory at ref, see [File.Inventory]. The
// inventory is a chunk of its own with a key of its own, from which no other
// key follows: who has the link learns the IDs of the packs, and nothing of
// what is in them.
func VerifyLink(network pack.Network, inventory pack.Ref) Link {
	return Link{Kind: KindVerify, Network: network.Short8(), Root: inventory}
}

// TreeLink gives the link to a tree whose root's entry is at root.
func TreeLink(network pack.Network, root pack.Ref) Link {
	return Link{Kind: KindTree, Network: network.Short8(), Root: root}
}

// Usable tells, in words for the user, why this version can read nothing
// through a link of that kind, or nil.
func (l Link) Usable() error {
	if l.Kind != KindFile && l.Kind != KindTree {
		return fmt.Errorf("a link to %s: this version opens links to files and trees only: %w", l.Kind, ErrKind)
	}
	return nil
}

// not says that a link is not of the kind that is wanted.
func (l Link) not(want Kind) error {
	return fmt.Errorf("a link to %s, not to %s: %w", l.Kind, want, ErrKind)
}

// In tells whether the link belongs to that network, or what it does not.
func (l Link) In(network pack.Network) error {
	if got, want := l.Network, network.Short8(); got != want {
		return fmt.Errorf("%w: it is of network %x, this is %x", ErrNetwork, got[:4], want[:4])
	}
	return nil
}

// ErrNetwork is wrapped when a link belongs to another network.
var ErrNetwork = errors.New("link to another network")
