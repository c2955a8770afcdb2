package pack

import (
	"encoding/binary"
	"fmt"

	"github.com/p2pfs/p2pfs/chunk"
)

// RefLen is the length of an encoded ref in bytes.
const RefLen = 32 + 4 + 4 + 8 + 32

// Ref says where a chunk is and how to open it.
type Ref struct {
	Pack ID        // zero: the pack that the ref itself stands in, before the chunk that holds it
	Off  uint32    // of the sealed chunk in its pack
	Len  uint32    // of the sealed chunk
	Size uint64    // of the chunk once it is open
	Key  chunk.Key // opens the chunk
}

// Append appends the one encoding of r to b. It has no magic, for it never
// stands alone.
func (r Ref) Append(b []byte) []byte {
	b = append(b, r.Pack[:]...)
	b = binary.BigEndian.AppendUint32(b, r.Off)
	b = binary.BigEndian.AppendUint32(b, r.Len)
	b = binary.BigEndian.AppendUint64(b, r.Size)
	return append(b, r.Key[:]...)
}

// DecodeRef reads the [RefLen] bytes that [Ref.Append] appended.
func DecodeRef(b []byte) (Ref, error) {
	r := reader{b: b}
	ref := readRef(&r)
	if err := r.end(); err != nil {
		return Ref{}, fmt.Errorf("decode ref: %w", err)
	}
	return ref, nil
}

func readRef(r *reader) Ref {
	ref := Ref{Pack: r.b32(), Off: r.u32(), Len: r.u32(), Size: r.u64(), Key: r.b32()}
	if r.err == nil {
		r.err = ref.Check()
	}
	return ref
}

// Check refuses a ref that can point to nothing, because it is empty or goes
// beyond the longest pack.
func (r Ref) Check() error {
	if r.Len == 0 || uint64(r.Off)+uint64(r.Len) > MaxLen {
		return fmt.Errorf("%w: a ref to %d bytes at %d", ErrCorrupt, r.Len, r.Off)
	}
	return nil
}

// In gives r as seen from outside: where its pack is zero, that of the chunk
// which holds r, at offset off of pack holder. Such a ref must point to
// before that chunk.
func (r Ref) In(holder ID, off uint32) (Ref, error) {
	if err := r.Check(); err != nil {
		return Ref{}, err
	}
	if !r.Pack.IsZero() {
		return r, nil
	}
	if uint64(r.Off)+uint64(r.Len) > uint64(off) {
		return Ref{}, fmt.Errorf("%w: a ref to %d bytes at %d of its own pack, which is not before %d", ErrCorrupt, r.Len, r.Off, off)
	}
	r.Pack = holder
	return r, nil
}
