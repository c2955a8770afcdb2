package volume

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/pack"
)

const (
	entryMagic  = "p2pE"
	entryHeader = 4 + 1 + 1 // magic, version, kind of entry

	// Two versions are written: the first where it can say all there is to
	// say, for files put one by one, and the second for all else.
	entryPlain = 1
	entryFull  = 2

	// MaxEntry is the length in bytes of the longest encoded entry. It fits a
	// chunk, and what a link may point to.
	MaxEntry = 256 << 10
	// MaxInline is the longest content that stands in the entry itself, in
	// bytes. No pack is shorter, so a lone file up to here costs one pack
	// instead of two; and more would make listing a directory dear, for which
	// all its entries are read.
	MaxInline = 4 << 10
	// MaxName is the length of the longest name in bytes, as in most file
	// systems.
	MaxName = 255
	// MaxFile is the size of the longest file in bytes.
	MaxFile = math.MaxInt64
	// MaxTarget is the length of the longest target of a symbolic link in
	// bytes, as on Linux.
	MaxTarget = 4096
	// MaxXattrs is how many extended attributes an entry may have, and
	// MaxXattrBytes the bytes of all their names and values together.
	MaxXattrs     = 1024
	MaxXattrBytes = 64 << 10
	// maxDepth is how deep lists of refs nest.
	maxDepth = 4
	// maxEntryRefs is how many refs stand in the entry itself: of a file of
	// about 128 MiB, in 10 KiB. Longer lists nest.
	maxEntryRefs = 128

	modeMask = 0o7777
)

// EntryKind is what an entry stands for. The numbers are on disk: add at the
// end, never reorder.
type EntryKind uint8

// The kinds of entries. A socket is none: it means nothing to who was not there.
const (
	FileEntry    EntryKind = 1
	DirEntry     EntryKind = 2
	SymlinkEntry EntryKind = 3
	FifoEntry    EntryKind = 4
	CharEntry    EntryKind = 5 // a character device
	BlockEntry   EntryKind = 6 // a block device

	lastEntry = BlockEntry
)

// NoOwner stands for a user or group that is not known.
const NoOwner uint32 = 1<<32 - 1

// Entry is a name in a tree, with all that is known of it.
type Entry struct {
	Kind   EntryKind
	Name   string // bytes, not always UTF-8; without '/' and NUL, never "." or ".."
	Mode   uint32 // permission bits, setuid (04000), setgid (02000) and sticky (01000)
	UID    uint32 // of the owner; NoOwner: not known
	GID    uint32
	MTime  time.Time
	Size   int64 // of the content in bytes; of a directory, of the list of what is in it
	Xattrs []Xattr
	Target string // of a symbolic link, 1 to MaxTarget bytes
	Device uint64 // of a device: its number, as Linux encodes it
	Group  uint64 // files of a tree with the same number are one file with several names; 0: it has this one only
	Sparse bool   // a file with holes: runs of zeros take no space where it is written
	Files  int64  // of a directory: entries below it that are no directories
	Bytes  int64  // of a directory: content of all files below it
	Inode  uint64 // where it was read, to tell later whether it is as it was; 0: not known

	inline    []byte   // the content of a tiny file or directory
	depth     int      // 0: parts are chunks; d: nodes of level d-1
	parts     []part   // the content of others
	inventory pack.Ref // of a root entry; zero of others
	list      []Entry  // what inline is made of, while a tree is written
	whole     bool     // while a tree is written: it is taken over with all below it
}

// Refs is how many refs stand in the entry itself: none where the content
// does, and few where the refs are nested.
func (e Entry) Refs() int { return len(e.parts) }

// weight is how many bytes of memory e takes, more or less.
func (e *Entry) weight() int {
	n := 512 + len(e.Name) + len(e.inline) + len(e.parts)*recordLen(1) + len(e.Target)
	for _, x := range e.Xattrs {
		n += 64 + len(x.Name) + len(x.Value)
	}
	return n
}

// counts is what e adds to the counts of the directory that it is in.
func (e *Entry) counts() (files, bytes int64) {
	if e.Kind == DirEntry {
		return e.Files, e.Bytes
	}
	return 1, e.Size
}

// Xattr is an extended attribute.
type Xattr struct {
	_     struct{} `cbor:",toarray"`
	Name  []byte
	Value []byte
}

// plainBody is an entry of version 1 as CBOR has it.
type plainBody struct {
	_ struct{} `cbor:",toarray"`
	plainFields
}

// plainFields are what both versions have.
type plainFields struct {
	Name      []byte
	Mode      uint32
	Sec       int64 // of MTime, Unix time
	Nsec      uint32
	Size      int64
	Xattrs    []Xattr
	Inline    []byte
	Depth     uint8
	Parts     []byte // records as part.append gives them
	Inventory []byte // empty, or a ref
}

// fullBody is one of version 2.
type fullBody struct {
	_ struct{} `cbor:",toarray"`
	plainFields
	UID    uint32
	GID    uint32
	Target []byte
	Device uint64
	Group  uint64
	Sparse bool
	Files  int64
	Bytes  int64
	Inode  uint64
}

// encMode and decMode are the one way we write and read CBOR: deterministic
// (RFC 8949, 4.2.1), and within bounds.
var (
	encMode = must(cbor.EncOptions{
		Sort:          cbor.SortCoreDeterministic,
		IndefLength:   cbor.IndefLengthForbidden,
		NilContainers: cbor.NilContainerAsEmpty,
		TagsMd:        cbor.TagsForbidden,
	}.EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  4,
		MaxArrayElements: MaxXattrs,
		MaxMapPairs:      16,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// version is that of the encoding of e.
func (e *Entry) version() byte {
	if e.Kind == FileEntry && e.UID == NoOwner && e.GID == NoOwner && e.Group == 0 && !e.Sparse && e.Inode == 0 {
		return entryPlain
	}
	return entryFull
}

// encode gives the one encoding of e, which must be valid.
func (e *Entry) encode() ([]byte, error) {
	b, err := e.append(nil)
	if err == nil && len(b) > MaxEntry {
		err = fmt.Errorf("%d bytes, at most %d are allowed", len(b), MaxEntry)
	}
	if err != nil {
		return nil, fmt.Errorf("encode entry: %w", err)
	}
	return b, nil
}

func (e *Entry) append(b []byte) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	enc, err := e.marshal()
	if err != nil {
		return nil, err
	}
	b = append(b, entryMagic...)
	b = append(b, e.version(), byte(e.Kind))
	return append(b, enc...), nil
}

// marshal gives the body of the encoding.
func (e *Entry) marshal() ([]byte, error) {
	body := plainFields{
		Name:   []byte(e.Name),
		Mode:   e.Mode,
		Sec:    e.MTime.Unix(),
		Nsec:   uint32(e.MTime.Nanosecond()),
		Size:   e.Size,
		Xattrs: e.Xattrs,
		Inline: e.inline,
		Depth:  uint8(e.depth),
	}
	for _, p := range e.parts {
		body.Parts = p.append(body.Parts, e.depth)
	}
	if e.inventory != (pack.Ref{}) {
		body.Inventory = e.inventory.Append(nil)
	}
	if e.version() == entryPlain {
		return encMode.Marshal(&plainBody{plainFields: body})
	}
	return encMode.Marshal(&fullBody{
		plainFields: body, UID: e.UID, GID: e.GID, Target: []byte(e.Target), Device: e.Device, Group: e.Group,
		Sparse: e.Sparse, Files: e.Files, Bytes: e.Bytes, Inode: e.Inode,
	})
}

// decodeEntry reads what encode gave.
func decodeEntry(b []byte) (*Entry, error) {
	e, err := decodeEntryBody(b)
	if err != nil {
		return nil, fmt.Errorf("decode entry: %w", err)
	}
	return e, nil
}

func decodeEntryBody(b []byte) (*Entry, error) {
	if len(b) > MaxEntry || len(b) < entryHeader || string(b[:4]) != entryMagic {
		return nil, fmt.Errorf("%w: not an entry", ErrCorrupt)
	}
	version, kind := b[4], EntryKind(b[5])
	switch {
	case version > entryFull:
		return nil, fmt.Errorf("version %d: %w", version, pack.ErrVersion)
	case version == 0:
		return nil, fmt.Errorf("%w: no version", ErrCorrupt)
	case kind == 0:
		return nil, fmt.Errorf("%w: no kind", ErrCorrupt)
	case kind > lastEntry:
		return nil, fmt.Errorf("neither file nor anything else that is known (kind %d): %w", kind, pack.ErrVersion)
	}
	body := fullBody{UID: NoOwner, GID: NoOwner}
	var err error
	if version == entryPlain {
		var plain plainBody
		err = decMode.Unmarshal(b[entryHeader:], &plain)
		body.plainFields = plain.plainFields
	} else {
		err = decMode.Unmarshal(b[entryHeader:], &body)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	e := &Entry{
		Kind:   kind,
		Name:   string(body.Name),
		Mode:   body.Mode,
		UID:    body.UID,
		GID:    body.GID,
		MTime:  time.Unix(body.Sec, int64(body.Nsec)),
		Size:   body.Size,
		Xattrs: body.Xattrs,
		Target: string(body.Target),
		Device: body.Device,
		Group:  body.Group,
		Sparse: body.Sparse,
		Files:  body.Files,
		Bytes:  body.Bytes,
		Inode:  body.Inode,
		inline: body.Inline,
		depth:  int(body.Depth),
	}
	if body.Nsec > 999_999_999 {
		return nil, fmt.Errorf("%w: %d nanoseconds", ErrCorrupt, body.Nsec)
	}
	if e.depth > maxDepth {
		return nil, fmt.Errorf("%w: refs nested %d deep", ErrCorrupt, e.depth)
	}
	if e.parts, err = readParts(body.Parts, e.depth, maxEntryRefs); err != nil {
		return nil, err
	}
	if len(body.Inventory) > 0 {
		if e.inventory, err = pack.DecodeRef(body.Inventory); err != nil {
			return nil, err
		}
	}
	again, err := e.append(make([]byte, 0, len(b)))
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, fmt.Errorf("%w: not the canonical encoding", ErrCorrupt)
	}
	return e, nil
}

// check refuses an entry that cannot be.
func (e *Entry) check() error {
	if e.Kind < FileEntry || e.Kind > lastEntry {
		return fmt.Errorf("%w: an entry of kind %d", ErrCorrupt, e.Kind)
	}
	if err := CheckName(e.Name); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if e.Mode&^modeMask != 0 {
		return fmt.Errorf("%w: mode %#o", ErrCorrupt, e.Mode)
	}
	total := 0
	for i, x := range e.Xattrs {
		if len(x.Name) < 1 || len(x.Name) > MaxName || i > 0 && bytes.Compare(e.Xattrs[i-1].Name, x.Name) >= 0 {
			return fmt.Errorf("%w: extended attributes not in order", ErrCorrupt)
		}
		total += len(x.Name) + len(x.Value)
	}
	if len(e.Xattrs) > MaxXattrs || total > MaxXattrBytes {
		return fmt.Errorf("%w: %d extended attributes with %d bytes", ErrCorrupt, len(e.Xattrs), total)
	}
	if err := e.checkKind(); err != nil {
		return err
	}
	return e.checkContent()
}

// checkKind refuses what an entry of its kind does not have.
func (e *Entry) checkKind() error {
	bad := ""
	link, device := e.Kind == SymlinkEntry, e.Kind == CharEntry || e.Kind == BlockEntry
	switch {
	case (len(e.Target) > 0) != link || len(e.Target) > MaxTarget || strings.IndexByte(e.Target, 0) >= 0:
		bad = "target"
	case e.Device != 0 && !device:
		bad = "device number"
	case e.Sparse && e.Kind != FileEntry:
		bad = "holes"
	case e.Group != 0 && e.Kind == DirEntry:
		bad = "second name"
	case e.Files < 0 || e.Bytes < 0 || (e.Files != 0 || e.Bytes != 0) && e.Kind != DirEntry:
		bad = "count"
	case e.Size != 0 && e.Kind != DirEntry && e.Kind != FileEntry:
		bad = "size"
	}
	if bad != "" {
		return fmt.Errorf("%w: an entry of kind %d with a %s that cannot be", ErrCorrupt, e.Kind, bad)
	}
	return nil
}

// checkContent refuses content that is not of the entry's size.
func (e *Entry) checkContent() error {
	if e.Size < 0 {
		return fmt.Errorf("%w: a size of %d", ErrCorrupt, e.Size)
	}
	if len(e.parts) == 0 {
		if len(e.inline) > MaxInline || int64(len(e.inline)) != e.Size || e.depth != 0 {
			return fmt.Errorf("%w: %d bytes of content, want %d", ErrCorrupt, len(e.inline), e.Size)
		}
		return nil
	}
	if len(e.inline) > 0 || len(e.parts) > maxEntryRefs {
		return fmt.Errorf("%w: %d refs and %d bytes of content", ErrCorrupt, len(e.parts), len(e.inline))
	}
	return checkSum(e.parts, uint64(e.Size))
}

// CheckName refuses what cannot be the name of a file.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("empty name")
	case len(name) > MaxName:
		return fmt.Errorf("name of %d bytes, at most %d are allowed", len(name), MaxName)
	case name == "." || name == "..":
		return fmt.Errorf("name %q", name)
	}
	for i := range len(name) {
		if name[i] == '/' || name[i] == 0 {
			return fmt.Errorf("name %q has a slash or a zero byte in it", name)
		}
	}
	return nil
}

const (
	nodeMagic   = "p2pN"
	nodeVersion = 1
	nodeHeader  = 4 + 1 + 1 + 4 // magic, version, level, count

	// maxNodeRefs is how many refs a node has at most.
	maxNodeRefs = 8192
	// maxNode is the length in bytes of the longest encoded node.
	maxNode = nodeHeader + maxNodeRefs*(pack.RefLen+8)
)

// part is a ref to a part of a file's content: at level 0 a chunk of it, above
// that a node of the level below.
type part struct {
	pack.Ref
	under uint64 // bytes of content; at level 0 the Size of the ref
}

func recordLen(level int) int {
	if level == 0 {
		return pack.RefLen
	}
	return pack.RefLen + 8
}

func (p part) append(b []byte, level int) []byte {
	b = p.Ref.Append(b)
	if level > 0 {
		b = binary.BigEndian.AppendUint64(b, p.under)
	}
	return b
}

// readParts reads the records of b, at most limit.
func readParts(b []byte, level, limit int) ([]part, error) {
	n := len(b) / recordLen(level)
	if len(b)%recordLen(level) != 0 || n > limit {
		return nil, fmt.Errorf("%w: %d bytes of refs", ErrCorrupt, len(b))
	}
	if n == 0 {
		return nil, nil
	}
	parts := make([]part, n)
	for i := range parts {
		rec := b[i*recordLen(level):][:recordLen(level)]
		ref, err := pack.DecodeRef(rec[:pack.RefLen])
		if err != nil {
			return nil, err
		}
		p := part{Ref: ref, under: ref.Size}
		if level > 0 {
			p.under = binary.BigEndian.Uint64(rec[pack.RefLen:])
		}
		if err := p.check(level); err != nil {
			return nil, err
		}
		parts[i] = p
	}
	return parts, nil
}

// check refuses a part that cannot be.
func (p part) check(level int) error {
	limit := uint64(maxNode)
	if level == 0 {
		limit = chunk.MaxSize
	}
	if p.Size < 1 || p.Size > limit || p.under < 1 || p.under > MaxFile {
		return fmt.Errorf("%w: a ref to %d bytes of content in %d", ErrCorrupt, p.under, p.Size)
	}
	return nil
}

// checkSum checks that parts are want bytes of content together.
func checkSum(parts []part, want uint64) error {
	var sum uint64
	for _, p := range parts {
		if p.under > want-sum {
			return fmt.Errorf("%w: refs to more than %d bytes", ErrCorrupt, want)
		}
		sum += p.under
	}
	if sum != want {
		return fmt.Errorf("%w: refs to %d bytes, want %d", ErrCorrupt, sum, want)
	}
	return nil
}

// node is a list of parts too long for an entry, in a chunk of its own.
type node struct {
	level int
	parts []part // 1 to maxNodeRefs
}

// encode gives the one encoding of n.
func (n *node) encode() []byte {
	b := make([]byte, 0, nodeHeader+len(n.parts)*recordLen(n.level))
	b = append(b, nodeMagic...)
	b = append(b, nodeVersion, byte(n.level))
	b = binary.BigEndian.AppendUint32(b, uint32(len(n.parts)))
	for _, p := range n.parts {
		b = p.append(b, n.level)
	}
	return b
}

// decodeNode reads what encode gave.
func decodeNode(b []byte) (*node, error) {
	n, err := decodeNodeBody(b)
	if err != nil {
		return nil, fmt.Errorf("decode node: %w", err)
	}
	return n, nil
}

func decodeNodeBody(b []byte) (*node, error) {
	if len(b) > maxNode || len(b) < nodeHeader || string(b[:4]) != nodeMagic {
		return nil, fmt.Errorf("%w: not a node", ErrCorrupt)
	}
	if v := b[4]; v > nodeVersion {
		return nil, fmt.Errorf("version %d: %w", v, pack.ErrVersion)
	} else if v != nodeVersion {
		return nil, fmt.Errorf("%w: version %d", ErrCorrupt, v)
	}
	n := &node{level: int(b[5])}
	count := binary.BigEndian.Uint32(b[6:])
	body := b[nodeHeader:]
	if n.level >= maxDepth || count < 1 || count > maxNodeRefs || len(body) != int(count)*recordLen(n.level) {
		return nil, fmt.Errorf("%w: %d refs in %d bytes at level %d", ErrCorrupt, count, len(body), n.level)
	}
	var err error
	n.parts, err = readParts(body, n.level, maxNodeRefs)
	return n, err
}
