package digest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"lukechampine.com/blake3/bao"
)

const (
	// MaxBlock is the length in bytes of the longest block of which a chunk
	// can be proven.
	MaxBlock = 256 << 10

	// MaxProof is the length in bytes of the longest proof, that of a chunk of
	// the longest block.
	MaxProof = lengthLen + 8*pairLen + chunkLen

	chunkLen  = 1 << 10 // of BLAKE3's chunks, the leaves of its tree
	pairLen   = 64      // of the digests of a node's two children
	lengthLen = 8
)

// ErrProof is wrapped by errors that say: the proof does not hold.
var ErrProof = errors.New("proof does not hold")

// Prove gives a proof that a block has the chunk of 1 KiB (the last may be
// shorter) that contains the byte at off, for one who knows the block's digest
// and length. The block has 1 to [MaxBlock] bytes and off lies within.
//
// A digest is the root of a binary tree over the chunks. The proof is what
// leads from there to the chunk, a Bao slice: the block's length (8 bytes,
// little-endian), the digests of both children of each node on the way, root
// first, and the chunk.
func Prove(block []byte, off int) []byte {
	if err := checkPlace(len(block), off); err != nil {
		panic("digest: prove: " + err.Error())
	}
	at, n := chunkAt(len(block), off)
	chunk := block[at : at+n]
	tree, _ := bao.EncodeBuf(block, 0, true)
	var proof bytes.Buffer
	proof.Grow(proofLen(len(block), off))
	err := bao.ExtractSlice(&proof, bytes.NewReader(chunk), bytes.NewReader(tree), 0, uint64(at), uint64(n))
	if err != nil {
		panic(err) // the tree is our own and whole
	}
	return proof.Bytes()
}

// VerifyProof checks a proof of the chunk that contains the byte at off of the
// block of blockLen bytes whose digest is hash, and gives the chunk. Of all
// byte strings just one passes, the one that [Prove] gives; for any other the
// error wraps [ErrProof].
//
// The hash and the length are the verifier's own knowledge. A proof made for
// another length does not pass, but it is no evidence of the length either:
// only the last chunk of a block shows where it ends.
func VerifyProof(hash Sum, blockLen, off int, proof []byte) (chunk []byte, err error) {
	if err := checkPlace(blockLen, off); err != nil {
		return nil, err
	}
	// Not left to bao, to which zeros that are missing at the end are there.
	if want := proofLen(blockLen, off); len(proof) != want {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrProof, len(proof), want)
	}
	if n := binary.LittleEndian.Uint64(proof); n != uint64(blockLen) {
		return nil, fmt.Errorf("%w: it is of a block of %d bytes, want %d", ErrProof, n, blockLen)
	}
	at, n := chunkAt(blockLen, off)
	chunk, ok := bao.VerifySlice(proof, 0, uint64(at), uint64(n), hash)
	if !ok || len(chunk) != n {
		return nil, fmt.Errorf("%w: wrong hash", ErrProof)
	}
	return chunk, nil
}

// checkPlace refuses what is no place in a block.
func checkPlace(blockLen, off int) error {
	if blockLen < 1 || blockLen > MaxBlock || off < 0 || off >= blockLen {
		return fmt.Errorf("no byte %d in a block of %d bytes, of at most %d", off, blockLen, MaxBlock)
	}
	return nil
}

// chunkAt gives where the chunk that contains the byte at off begins, and its
// length.
func chunkAt(blockLen, off int) (at, n int) {
	at = off &^ (chunkLen - 1)
	return at, min(chunkLen, blockLen-at)
}

// proofLen is the length of the proof of the chunk that contains the byte at
// off.
func proofLen(blockLen, off int) int {
	n, pairs := blockLen, 0
	for ; n > chunkLen; pairs++ {
		// The left child is the largest full tree that leaves something for
		// the right.
		left := 1 << (bits.Len(uint(n-1)) - 1)
		if off < left {
			n = left
		} else {
			n, off = n-left, off-left
		}
	}
	return lengthLen + pairs*pairLen + n
}
