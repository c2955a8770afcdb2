// Package digest is the one door to BLAKE3: plain digests for names and
// checks, derived keys, keyed digests, and proofs that a block of a known digest
// has a chunk. All digests are 32 bytes, and all functions are safe for
// concurrent use.
package digest

import (
	"sync"

	"github.com/zeebo/blake3"
)

// Sum is a BLAKE3-256 digest.
type Sum = [32]byte

// Of gives the digest of the concatenation of parts.
func Of(parts ...[]byte) Sum {
	if len(parts) == 1 {
		return blake3.Sum256(parts[0])
	}
	h := plain.Get().(*blake3.Hasher)
	sum := finish(h, parts)
	plain.Put(h)
	return sum
}

// Derive gives a key derived from the concatenation of material, in BLAKE3's
// mode for that. The context is a constant of the program, unique to the
// use, such as "p2pfs 2026-11 chunk key": never build it from data, a hasher
// is kept for each.
func Derive(context string, material ...[]byte) Sum {
	pool, ok := derivers.Load(context)
	if !ok {
		pool, _ = derivers.LoadOrStore(context, &sync.Pool{
			New: func() any { return blake3.NewDeriveKey(context) },
		})
	}
	p := pool.(*sync.Pool)
	h := p.Get().(*blake3.Hasher)
	sum := finish(h, material)
	p.Put(h)
	return sum
}

// Keyed gives the digest under key of the concatenation of parts.
func Keyed(key *[32]byte, parts ...[]byte) Sum {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(err) // refuses other lengths than 32 only
	}
	return finish(h, parts)
}

// The hashers are kept, for each is more than 10 KiB.
var (
	plain    = sync.Pool{New: func() any { return blake3.New() }}
	derivers sync.Map // context -> *sync.Pool of *blake3.Hasher
)

// finish hashes parts and leaves h ready for others.
func finish(h *blake3.Hasher, parts [][]byte) (sum Sum) {
	for _, p := range parts {
		_, _ = h.Write(p) // never an error
	}
	h.Sum(sum[:0])
	h.Reset()
	return sum
}
