package pack

import "slices"

// Builder fills one pack. It is used again after [Builder.Reset].
type Builder struct {
	buf   []byte
	limit int
}

// NewBuilder makes a builder that fills buf, which it owns from now on, up to
// limit bytes (at most [MaxLen]), padding not counted. Where the capacity of
// buf is [MaxLen] nothing is allocated; else it grows as needed.
func NewBuilder(buf []byte, limit int) *Builder {
	b := &Builder{}
	b.Reset(buf, limit)
	return b
}

// Reset starts a new pack in buf, as [NewBuilder] does.
func (b *Builder) Reset(buf []byte, limit int) {
	b.buf, b.limit = buf[:0], min(limit, MaxLen)
}

// Len is how many bytes are in the pack.
func (b *Builder) Len() int { return len(b.buf) }

// Room is how many bytes still fit.
func (b *Builder) Room() int { return b.limit - len(b.buf) }

// Append adds a sealed chunk, which must fit, and gives its offset.
func (b *Builder) Append(sealed []byte) (off int) {
	if len(sealed) > b.Room() {
		panic("pack: chunk longer than the room left")
	}
	off = len(b.buf)
	b.buf = append(b.buf, sealed...)
	return off
}

// Finish pads the pack and gives its bytes, which the builder no longer owns.
// The builder must be Reset before it is used again.
func (b *Builder) Finish() []byte {
	n := len(b.buf)
	p := slices.Grow(b.buf, Padme(n)-n)[:Padme(n)]
	clear(p[n:])
	b.buf, b.limit = nil, 0
	return p
}
