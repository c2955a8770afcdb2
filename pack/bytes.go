package pack

import (
	"encoding/binary"
	"fmt"
)

// header is how every format that stands alone begins: 4 bytes of magic and a
// version.
const headerLen = 5

func appendHeader(b []byte, magic string, version byte) []byte {
	b = append(b, magic...)
	return append(b, version)
}

// reader takes a format apart from the front. The first thing that does not
// fit makes it fail, and all later reads give zeros.
type reader struct {
	b   []byte
	err error
}

// header checks magic and version of the format called what.
func (r *reader) header(what, magic string, version byte) {
	if r.err != nil {
		return
	}
	if len(r.b) < headerLen || string(r.b[:4]) != magic {
		r.err = fmt.Errorf("%w: not a %s", ErrCorrupt, what)
		return
	}
	if v := r.b[4]; v > version {
		r.err = fmt.Errorf("%s of version %d: %w", what, v, ErrVersion)
	} else if v != version {
		r.err = fmt.Errorf("%w: %s of version %d", ErrCorrupt, what, v)
	}
	r.b = r.b[headerLen:]
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
	}
}

// take gives the next n bytes without copying them, or nil.
func (r *reader) take(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.b) {
		r.fail("ends too early")
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *reader) b32() (a [32]byte) {
	if b := r.take(32); b != nil {
		copy(a[:], b)
	}
	return a
}

// hashes reads n of them; n is bounded by the caller, and by what is left
// before anything is allocated.
func (r *reader) hashes(n int) []Hash {
	b := r.take(n * 32)
	if r.err != nil || n == 0 {
		return nil
	}
	hs := make([]Hash, n)
	for i := range hs {
		copy(hs[i][:], b[i*32:])
	}
	return hs
}

// end fails if anything is left.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d bytes too many", len(r.b))
	}
	return r.err
}
