package pack

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
)

const (
	contentMagic   = "p2pC"
	contentVersion = 1
	// maxContent is the length of an encoded content of MaxBlocks hashes.
	maxContent = headerLen + 4 + 32*MaxBlocks
)

// Content is what a pack holds, as the public sees it: its length in bytes and
// the hash of each data block. How long blocks are follows from Len alone.
type Content struct {
	Len    int
	Hashes []Hash
}

// layout is the geometry of a pack of n bytes as far as no scheme is needed:
// its block size, number of blocks, and their lengths.
func layout(n int) erasure.Geometry {
	return erasure.NewGeometry(n, erasure.Scheme{K: 1})
}

// NewContent hashes the blocks of a finished pack, of 1 to [MaxLen] bytes.
func NewContent(pack []byte) Content {
	g := layout(len(pack))
	c := Content{Len: len(pack), Hashes: make([]Hash, g.Blocks)}
	hashAll(c.Hashes, func(i int) []byte {
		off := i * g.BlockSize
		return pack[off : off+g.BlockLen(i)]
	})
	return c
}

// hashAll fills hs with the hashes of what part gives, in two goroutines.
func hashAll(hs []Hash, part func(i int) []byte) {
	half := len(hs) / 2
	var g errgroup.Group
	g.Go(func() error {
		for i := range half {
			hs[i] = digest.Of(part(i))
		}
		return nil
	})
	for i := half; i < len(hs); i++ {
		hs[i] = digest.Of(part(i))
	}
	_ = g.Wait() // hashing does not fail
}

// BlockSize is the length in bytes of all blocks but the last, which may be
// shorter.
func (c Content) BlockSize() int { return layout(c.Len).BlockSize }

// Encode gives the one encoding of c.
func (c Content) Encode() []byte {
	return c.append(make([]byte, 0, c.encodedLen()))
}

func (c Content) encodedLen() int { return headerLen + 4 + 32*len(c.Hashes) }

func (c Content) append(b []byte) []byte {
	b = appendHeader(b, contentMagic, contentVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(c.Len))
	for i := range c.Hashes {
		b = append(b, c.Hashes[i][:]...)
	}
	return b
}

// DecodeContent reads what [Content.Encode] gave.
func DecodeContent(b []byte) (Content, error) {
	r := reader{b: b}
	r.header("pack content", contentMagic, contentVersion)
	c := Content{Len: int(r.u32())}
	if r.err == nil && (c.Len < 1 || c.Len > MaxLen) {
		r.fail("a pack of %d bytes", c.Len)
	}
	if r.err == nil {
		c.Hashes = r.hashes(layout(c.Len).Blocks)
	}
	if err := r.end(); err != nil {
		return Content{}, fmt.Errorf("decode pack content: %w", err)
	}
	return c, nil
}

// Hash is the hash of the encoded content, version and length included.
func (c Content) Hash() Hash { return digest.Of(c.Encode()) }

// IDOf gives the ID of the pack with that content hash which belongs to owner.
func IDOf(owner Owner, content Hash) ID { return digest.Of(owner[:], content[:]) }
