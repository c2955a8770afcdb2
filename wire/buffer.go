package wire

import (
	"iter"
	"sync"
)

const (
	// maxWrite is the most that goes into one Write: above a megabyte there
	// is nothing more to gain over TLS and yamux.
	maxWrite = 1 << 20
)

type (
	// blockBuffer takes a block, with status and acknowledgement before it.
	blockBuffer [frameLen + 1 + MaxBlock]byte

	// replyBuffer takes what goes out in one Write of a reply to [Read].
	replyBuffer [frameLen + maxWrite/MaxBlock*(1+MaxBlock)]byte
)

var (
	blockPool = sync.Pool{New: func() any { return new(blockBuffer) }}
	replyPool = sync.Pool{New: func() any { return new(replyBuffer) }}
)

// gather yields blocks in few large pieces: those that lie one behind the
// other in memory, the first with the capacity to say so, come together
// without being copied; small ones that do not are copied together. A piece is
// valid until the next is asked for.
func gather(cells [][]byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		var buf *blockBuffer
		defer func() {
			if buf != nil {
				blockPool.Put(buf)
			}
		}()
		for i := 0; i < len(cells); {
			run := cells[i]
			for i++; i < len(cells) && len(run)+len(cells[i]) <= maxWrite && adjoin(run, cells[i]); i++ {
				run = run[:len(run)+len(cells[i])]
			}
			if i < len(cells) && len(run)+len(cells[i]) <= MaxBlock {
				if buf == nil {
					buf = blockPool.Get().(*blockBuffer)
				}
				for run = append(buf[:0], run...); i < len(cells) && len(run)+len(cells[i]) <= MaxBlock; i++ {
					run = append(run, cells[i]...)
				}
			}
			if !yield(run) {
				return
			}
		}
	}
}

// adjoin reports whether b begins in memory where a ends, and a reaches far
// enough to be extended by it.
func adjoin(a, b []byte) bool {
	return len(b) > 0 && cap(a) >= len(a)+len(b) && &a[:len(a)+1][len(a)] == &b[0]
}
