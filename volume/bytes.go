package volume

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/p2pfs/p2pfs/pack"
)

// headerLen is magic and version, with which what stands alone begins.
const headerLen = 4 + 1

// reader takes an encoding apart from the front. The first thing that does not
// fit makes it fail, and all later reads give zeros.
type reader struct {
	b   []byte
	err error
}

// header checks magic and version of the format called what.
func (r *reader) header(what, magic string, version byte) {
	h := r.take(headerLen)
	switch {
	case r.err != nil || string(h[:4]) != magic:
		r.err = fmt.Errorf("%w: not a %s", ErrCorrupt, what)
	case h[4] > version:
		r.err = fmt.Errorf("%s of version %d: %w", what, h[4], pack.ErrVersion)
	case h[4] != version:
		r.err = fmt.Errorf("%w: %s of version %d", ErrCorrupt, what, h[4])
	}
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
	}
}

// take gives the next n bytes without copying them, or nil.
func (r *reader) take(n int) []byte {
	if r.err == nil && n > len(r.b) {
		r.fail("ends too early")
	}
	if r.err != nil {
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
	copy(a[:], r.take(len(a)))
	return a
}

// time reads milliseconds since 1970.
func (r *reader) time() time.Time {
	ms := r.u64()
	if ms > math.MaxInt64 {
		r.fail("a time of %d ms", ms)
	}
	return time.UnixMilli(int64(ms))
}

// peer reads the ID of a peer, after its length.
func (r *reader) peer() string { return string(r.take(int(r.u8()))) }

// ref reads a ref, which must be able to point to something; zeros are one
// too where none is allowed.
func (r *reader) ref(none bool) (ref pack.Ref) {
	b := r.take(pack.RefLen)
	if r.err == nil && !(none && [pack.RefLen]byte(b) == [pack.RefLen]byte{}) {
		ref, r.err = pack.DecodeRef(b)
	}
	return ref
}

// end fails if anything is left.
func (r *reader) end() error {
	if len(r.b) > 0 {
		r.fail("%d bytes too many", len(r.b))
	}
	return r.err
}

// appendTime appends t as milliseconds since 1970; see [checkTime].
func appendTime(b []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(t.UnixMilli()))
}

// checkTime refuses a time that cannot be written.
func checkTime(t time.Time) error {
	if t.UnixMilli() < 0 {
		return fmt.Errorf("%w: a time before 1970", ErrCorrupt)
	}
	return nil
}

// maxPeer is the length in bytes of the longest peer ID.
const maxPeer = 64

// appendPeer appends the length of the ID of a peer and the ID; see
// [checkPeer].
func appendPeer(b []byte, id string) []byte {
	return append(append(b, byte(len(id))), id...)
}

// checkPeer refuses what is no peer's ID.
func checkPeer(id string) error {
	if len(id) < 1 || len(id) > maxPeer {
		return fmt.Errorf("%w: a peer ID of %d bytes", ErrCorrupt, len(id))
	}
	return nil
}
