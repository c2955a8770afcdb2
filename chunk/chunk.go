// Package chunk cuts streams into chunks and seals them.
//
// A Splitter cuts where the content says so. Seal compresses a chunk where
// that helps, and encrypts it under a key that derives from a secret and the
// chunk's own payload: the same chunk under the same secret seals to the same
// bytes, and no key ever seals two payloads. Open does the reverse, and
// OpenSpan opens a range of a chunk that was not compressed without the rest
// of it.
//
// What is sealed shows its length, and to those who know the secret nothing
// more than that two chunks are equal. The format is in docs/format.md.
package chunk

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/p2pfs/p2pfs/internal/digest"
)

// Sizes of a chunk's plain bytes. Of AvgSize: larger chunks find fewer
// duplicates, smaller ones cost more references.
const (
	MinSize = 256 << 10
	AvgSize = 1 << 20
	MaxSize = 4 << 20
)

const (
	// FrameSize is the number of payload bytes in each frame but the last,
	// which has 1 to FrameSize.
	FrameSize = 64 << 10

	tagSize    = 16 // of AES-GCM, at the end of each frame
	sealedSize = FrameSize + tagSize
)

// The first byte of a payload.
const (
	flagRaw  = 0
	flagZstd = 1
)

// keyContext is the domain in which chunk keys are derived.
const keyContext = "p2pfs 2026-11 chunk key"

// Secret is a volume's convergence secret. Chunks deduplicate among those
// sealed under one secret.
type Secret [32]byte

// Key opens one chunk.
type Key [32]byte

// ErrCorrupt is wrapped by the error of whatever cannot be opened: damaged,
// not a sealed chunk, of another size, or under another key.
var ErrCorrupt = errors.New("corrupt data")

// MaxSealed is the most bytes that Seal appends for size plain bytes.
func MaxSealed(size int) int { return RawLen(size) }

// RawLen is the sealed length of a chunk of size bytes that is not
// compressed. A compressed one is always shorter, so the length tells which
// of the two a chunk is.
func RawLen(size int) int { return sealedLen(size + 1) }

// sealedLen is the sealed length of a payload.
func sealedLen(payload int) int {
	return payload + tagSize*((payload+FrameSize-1)/FrameSize)
}

// Seal appends the sealed data to dst, in place if dst has room for
// MaxSealed(len(data)), and gives the key that opens it. Data may be empty,
// and has at most MaxSize bytes; it must not overlap dst's room.
func Seal(dst []byte, secret *Secret, data []byte) ([]byte, Key) {
	if len(data) > MaxSize {
		panic(fmt.Sprintf("chunk: seal %d bytes", len(data)))
	}
	if worthwhile(data) {
		s := scratches.Get().(*scratch)
		defer scratches.Put(s)
		s.buf = append(slices.Grow(s.buf[:0], 1+len(data)), flagZstd)
		s.buf = compress(s.buf, data)
		if len(s.buf) < 1+len(data) {
			key := deriveKey(secret, s.buf)
			return sealRest(slices.Grow(dst, sealedLen(len(s.buf))), newAEAD(&key), 0, s.buf), key
		}
	}
	key := deriveKey(secret, []byte{flagRaw}, data)
	aead := newAEAD(&key)
	dst = slices.Grow(dst, RawLen(len(data)))
	start, first := len(dst), min(len(data), FrameSize-1)
	dst = append(append(dst, flagRaw), data[:first]...)
	last := first == len(data)
	dst = aead.Seal(dst[:start], nonce(0, last), dst[start:], nil)
	if !last {
		dst = sealRest(dst, aead, 1, data[first:])
	}
	return dst, key
}

// sealRest appends the frames of the rest of a payload, at least a byte;
// the first of them has the number frame.
func sealRest(dst []byte, aead cipher.AEAD, frame int, rest []byte) []byte {
	for len(rest) > FrameSize {
		dst = aead.Seal(dst, nonce(frame, false), rest[:FrameSize], nil)
		rest = rest[FrameSize:]
		frame++
	}
	return aead.Seal(dst, nonce(frame, true), rest, nil)
}

// Open appends the size plain bytes of a sealed chunk to dst. Whatever is
// sealed, it never makes more than size bytes; if they are not exactly size,
// or anything else is wrong, the error wraps ErrCorrupt.
func Open(dst []byte, key *Key, sealed []byte, size int) ([]byte, error) {
	switch {
	case size < 0 || size > MaxSize:
		return nil, fmt.Errorf("%w: chunk of %d bytes", ErrCorrupt, size)
	case len(sealed) == RawLen(size):
		return OpenSpan(dst, key, sealed, size, 0, size)
	case len(sealed) > RawLen(size):
		return nil, fmt.Errorf("%w: %d bytes are too many for a chunk of %d", ErrCorrupt, len(sealed), size)
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	var err error
	if s.buf, err = openPayload(s.buf[:0], newAEAD(key), sealed); err != nil {
		return nil, err
	}
	if s.buf[0] != flagZstd {
		return nil, fmt.Errorf("%w: bad kind of chunk %d", ErrCorrupt, s.buf[0])
	}
	return decompress(dst, s.buf[1:], size)
}

// openPayload appends the payload of all frames, at least one byte.
func openPayload(dst []byte, aead cipher.AEAD, sealed []byte) ([]byte, error) {
	dst = slices.Grow(dst, len(sealed))
	for frame := 0; ; frame++ {
		n := min(len(sealed), sealedSize)
		last := n == len(sealed)
		var err error
		if dst, err = openFrame(dst, aead, frame, last, sealed[:n]); err != nil {
			return nil, err
		}
		if sealed = sealed[n:]; last {
			return dst, nil
		}
	}
}

// openFrame appends the payload of one frame, of at least a byte.
func openFrame(dst []byte, aead cipher.AEAD, frame int, last bool, sealed []byte) ([]byte, error) {
	if len(sealed) <= tagSize {
		return nil, fmt.Errorf("%w: frame %d is cut short", ErrCorrupt, frame)
	}
	dst, err := aead.Open(dst, nonce(frame, last), sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: frame %d does not open", ErrCorrupt, frame)
	}
	return dst, nil
}

// Span tells which bytes of a sealed chunk that is not compressed hold its
// plain bytes [off, off+n), for 0 <= off <= off+n <= size.
func Span(size, off, n int) (sealedOff, sealedLen int) {
	first, last := frames(off, n)
	sealedOff = first * sealedSize
	return sealedOff, min((last+1)*sealedSize, RawLen(size)) - sealedOff
}

// frames gives the first and the last frame that hold the plain bytes
// [off, off+n) of a chunk that is not compressed. The flag stands before
// them. An empty range has the frame of the byte before it, or of the flag.
func frames(off, n int) (first, last int) {
	last = (off + n) / FrameSize
	first = (off + 1) / FrameSize
	return min(first, last), last
}

// OpenSpan appends the plain bytes [off, off+n) of a chunk of size bytes
// that is not compressed to dst, from the bytes that Span tells.
func OpenSpan(dst []byte, key *Key, span []byte, size, off, n int) ([]byte, error) {
	if size < 0 || size > MaxSize || off < 0 || n < 0 || off > size || n > size-off {
		return nil, fmt.Errorf("%w: bytes %d+%d of a chunk of %d", ErrCorrupt, off, n, size)
	}
	if _, want := Span(size, off, n); len(span) != want {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrCorrupt, len(span), want)
	}
	aead := newAEAD(key)
	dst = slices.Grow(dst, n)
	first, last := frames(off, n)
	for f := first; f <= last; f++ {
		sealed := span[:min(len(span), sealedSize)]
		span = span[len(sealed):]
		// The frame's bytes stand at [at, end) of the payload.
		at := f * FrameSize
		end := at + len(sealed) - tagSize
		isLast := end == size+1
		var err error
		if at >= off+1 && end <= off+1+n && at > 0 {
			if dst, err = openFrame(dst, aead, f, isLast, sealed); err != nil {
				return nil, err
			}
			continue
		}
		if dst, err = openPart(dst, aead, f, isLast, sealed, max(off+1-at, 0), min(off+1+n, end)-at); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// openPart appends the bytes [from, to) of a frame's payload. That of frame
// 0 begins with the flag, which has to be flagRaw.
func openPart(dst []byte, aead cipher.AEAD, frame int, last bool, sealed []byte, from, to int) ([]byte, error) {
	b := frameBufs.Get().(*[FrameSize]byte)
	defer frameBufs.Put(b)
	payload, err := openFrame(b[:0], aead, frame, last, sealed)
	if err != nil {
		return nil, err
	}
	if frame == 0 && payload[0] != flagRaw {
		return nil, fmt.Errorf("%w: bad kind of chunk %d", ErrCorrupt, payload[0])
	}
	return append(dst, payload[from:to]...), nil
}

func deriveKey(secret *Secret, payload ...[]byte) Key {
	sum := digest.Of(payload...)
	return digest.Derive(keyContext, secret[:], sum[:])
}

func newAEAD(key *Key) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // refuses other lengths than 16, 24, 32 only
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // refuses other block sizes than 16 only
	}
	return aead
}

// nonce is that of age's STREAM: an 11-byte frame counter, and whether the
// frame is the last.
func nonce(frame int, last bool) []byte {
	var n [12]byte
	binary.BigEndian.PutUint64(n[3:11], uint64(frame))
	if last {
		n[11] = 1
	}
	return n[:]
}

// scratch holds the payload of a chunk that is compressed.
type scratch struct{ buf []byte }

var (
	scratches = sync.Pool{New: func() any { return new(scratch) }}
	frameBufs = sync.Pool{New: func() any { return new([FrameSize]byte) }}
)
