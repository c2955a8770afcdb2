package node

import (
	"sync"

	"github.com/p2pfs/p2pfs/pack"
)

// buffers keeps a few large buffers for use again, so that a transfer of any
// length allocates only those of its first packs: what the garbage collector
// sees of a pipeline of 32 MiB buffers is then a constant.
type buffers struct {
	mu     sync.Mutex
	free   [][]byte // of at least large bytes each
	blocks sync.Pool
}

const (
	// keptBuffers bounds the free list.
	keptBuffers = 4

	// small buffers are left to the garbage collector.
	smallBuffer = 4 << 20

	maxBlock = 256 << 10
)

// get gives a buffer of n bytes, contents undefined.
func (b *buffers) get(n int) []byte {
	if n > smallBuffer {
		b.mu.Lock()
		best := -1
		for i, f := range b.free {
			if cap(f) >= n && (best < 0 || cap(f) < cap(b.free[best])) {
				best = i
			}
		}
		if best >= 0 {
			f := b.free[best]
			b.free = append(b.free[:best], b.free[best+1:]...)
			b.mu.Unlock()
			return f[:n]
		}
		b.mu.Unlock()
		return make([]byte, n, max(n, pack.MaxLen))
	}
	return make([]byte, n)
}

// put gives a buffer back; it must not be used afterwards.
func (b *buffers) put(buf []byte) {
	if cap(buf) < pack.MaxLen {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.free) < keptBuffers {
		b.free = append(b.free, buf[:0])
		return
	}
	// Keep the larger ones: they serve every need.
	for i, f := range b.free {
		if cap(f) < cap(buf) {
			b.free[i] = buf[:0]
			return
		}
	}
}

// block gives a buffer for one block.
func (b *buffers) block() *[maxBlock]byte {
	if v, ok := b.blocks.Get().(*[maxBlock]byte); ok {
		return v
	}
	return new([maxBlock]byte)
}

func (b *buffers) putBlock(v *[maxBlock]byte) { b.blocks.Put(v) }
