package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"time"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// A tree travels as frames: a byte that says of what type, the length of what
// follows in 4 bytes, big-endian, and that many bytes. Behind the item of a file
// comes its content, data frames up to the frame that ends them. The stream is
// whole when its last frame says so, and not before; one that tells of an error
// may come anywhere.
const (
	frameItem    = 'i' // an item, see itemFrame
	frameData    = 'd' // content of the file whose item came last, 1 byte or more
	frameFileEnd = 'f' // that was all of the content; or why the file is left out, as text
	frameEnd     = 'e' // a wireError: the outcome of all

	frameHeader = 1 + 4
	// maxFrame bounds what follows the header of a frame, in bytes. It fits an
	// entry with all its attributes.
	maxFrame = 512 << 10
	// maxMessage bounds a message in a frame, in bytes, where there is no space
	// for all that an error says.
	maxMessage = 4 << 10
)

// An item is written as bytes, not as JSON, of which a tree of many small files
// would be hardly anything else: two bytes for flags and kind, the numbers as
// varints, then path, target and attributes, each after its length.
const (
	itemSame   = 1 // of a put: a file as its parent has it; no content follows
	itemSparse = 2
	itemNamed  = 4 // its name follows the path: it is not the path's last element
	itemBegun  = 8 // of a get: where the content that follows begins, and what is fetched, follow last

	itemFlags = itemSame | itemSparse | itemNamed | itemBegun
)

// itemFrame gives an item as a frame.
func itemFrame(i node.Item, same bool) ([]byte, error) {
	e := &i.Entry
	b := make([]byte, frameHeader, frameHeader+96+len(i.Path)+len(e.Target))
	var flags byte
	if same {
		flags |= itemSame
	}
	if e.Sparse {
		flags |= itemSparse
	}
	if path.Base(i.Path) != e.Name {
		flags |= itemNamed
	}
	if i.From != 0 || i.ID != "" {
		flags |= itemBegun
	}
	b = append(b, flags, byte(e.Kind))
	for _, n := range []uint64{uint64(e.Mode), uint64(e.UID), uint64(e.GID), uint64(e.MTime.Nanosecond()), e.Device, e.Group, e.Inode} {
		b = binary.AppendUvarint(b, n)
	}
	for _, n := range []int64{e.MTime.Unix(), e.Size, e.Files, e.Bytes} {
		b = binary.AppendVarint(b, n)
	}
	b = appendText(b, i.Path)
	if flags&itemNamed != 0 {
		b = appendText(b, e.Name)
	}
	b = appendText(b, e.Target)
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		b = appendText(appendText(b, x.Name), x.Value)
	}
	if flags&itemBegun != 0 {
		b = appendText(binary.AppendVarint(b, i.From), i.ID)
	}
	if len(b) > frameHeader+maxFrame {
		return nil, fmt.Errorf("an item of %d bytes, at most %d are allowed", len(b), maxFrame)
	}
	putHeader(b, frameItem, len(b)-frameHeader)
	return b, nil
}

func appendText[T string | []byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

// itemFields takes an item apart; what is taken after a failure is zero.
type itemFields struct {
	b   []byte
	bad bool
}

func (f *itemFields) uint(most uint64) uint64 {
	v, n := binary.Uvarint(f.b)
	if n <= 0 || v > most {
		f.bad = true
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *itemFields) int() int64 {
	v, n := binary.Varint(f.b)
	if n <= 0 {
		f.bad = true
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *itemFields) byte() byte {
	if len(f.b) == 0 {
		f.bad = true
		return 0
	}
	c := f.b[0]
	f.b = f.b[1:]
	return c
}

func (f *itemFields) text() []byte {
	n := f.uint(uint64(len(f.b)))
	if f.bad || n > uint64(len(f.b)) {
		f.bad = true
		return nil
	}
	t := f.b[:n:n]
	f.b = f.b[n:]
	return t
}

// decodeItem reads what itemFrame wrote behind the header.
func decodeItem(b []byte) (i node.Item, same bool, err error) {
	f := itemFields{b: b}
	flags := f.byte()
	e := &i.Entry
	e.Kind = volume.EntryKind(f.byte())
	e.Mode, e.UID, e.GID = uint32(f.uint(math.MaxUint32)), uint32(f.uint(math.MaxUint32)), uint32(f.uint(math.MaxUint32))
	nsec := f.uint(999_999_999)
	e.Device, e.Group, e.Inode = f.uint(math.MaxUint64), f.uint(math.MaxUint64), f.uint(math.MaxUint64)
	e.MTime = time.Unix(f.int(), int64(nsec))
	e.Size, e.Files, e.Bytes = f.int(), f.int(), f.int()
	i.Path = string(f.text())
	e.Name = path.Base(i.Path)
	if flags&itemNamed != 0 {
		e.Name = string(f.text())
	}
	e.Target = string(f.text())
	for range f.uint(uint64(len(f.b) / 2)) {
		x := volume.Xattr{Name: bytes.Clone(f.text()), Value: bytes.Clone(f.text())}
		if f.bad {
			break
		}
		e.Xattrs = append(e.Xattrs, x)
	}
	if flags&itemBegun != 0 {
		i.From, i.ID = f.int(), string(f.text())
	}
	e.Sparse = flags&itemSparse != 0
	if f.bad || len(f.b) > 0 || flags&^itemFlags != 0 || e.Kind == 0 || e.Size < 0 || e.Files < 0 || e.Bytes < 0 || i.From < 0 || i.From > e.Size {
		return node.Item{}, false, errFrame
	}
	return i, flags&itemSame != 0, nil
}

// jsonFrame gives v as a frame.
func jsonFrame(kind byte, v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("frame: %w", err)
	}
	if len(b) > maxFrame {
		return nil, fmt.Errorf("an item of %d bytes, at most %d are allowed", len(b), maxFrame)
	}
	frame := make([]byte, frameHeader, frameHeader+len(b))
	putHeader(frame, kind, len(b))
	return append(frame, b...), nil
}

func putHeader(b []byte, kind byte, n int) {
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(n))
}

// endFrame gives the frame that ends a stream.
func endFrame(err error) []byte {
	e := toWire(err)
	b, jerr := jsonFrame(frameEnd, e)
	if jerr != nil { // too long
		b, jerr = jsonFrame(frameEnd, wireError{Code: e.Code, Message: e.Message[:min(len(e.Message), maxMessage)]})
	}
	if jerr != nil {
		panic(jerr) // a number and 4 KiB of text are a frame
	}
	return b
}

// treeReader gives a tree as a stream of frames, in the longest pieces that fit.
type treeReader struct {
	ctx  context.Context // of the put
	src  node.TreeSource
	file io.Reader // that is under way
	rest []byte    // of frames that did not fit
	err  error     // after rest
}

// leastRead is how much space a frame of data is to have, in bytes, with its
// header.
const leastRead = 16 << 10

// Read fills p as far as files give something without an end.
func (t *treeReader) Read(p []byte) (n int, err error) {
	if len(p) < leastRead { // who reads in crumbs pays with a copy
		if len(t.rest) == 0 && t.err == nil {
			buf := make([]byte, leastRead)
			n, t.err = t.fill(buf)
			t.rest = buf[:n]
		}
		n = copy(p, t.rest)
		t.rest = t.rest[n:]
	} else {
		n = copy(p, t.rest)
		t.rest = t.rest[n:]
		for len(t.rest) == 0 && t.err == nil && len(p)-n >= leastRead {
			var more int
			more, t.err = t.fill(p[n:])
			n += more
		}
	}
	if len(t.rest) == 0 {
		return n, t.err
	}
	return n, nil
}

// fill writes the next frame to p, of which there is leastRead at least.
func (t *treeReader) fill(p []byte) (int, error) {
	if err := t.ctx.Err(); err != nil {
		return 0, context.Cause(t.ctx)
	}
	if t.file != nil {
		return t.fillData(p)
	}
	item, r, err := t.src.Next(t.ctx)
	if err == io.EOF { // not wrapped: that would be an error like others
		return t.give(p, endFrame(nil)), io.EOF
	}
	if err != nil {
		return 0, err
	}
	isFile := item.Entry.Kind == volume.FileEntry
	frame, err := itemFrame(item, isFile && r == nil)
	if err != nil {
		return 0, fmt.Errorf("%q: %w", item.Path, err)
	}
	if isFile {
		t.file = r
	}
	return t.give(p, frame), nil
}

func (t *treeReader) fillData(p []byte) (int, error) {
	n, err := t.file.Read(p[frameHeader:min(len(p), frameHeader+maxFrame)])
	done := 0
	leftOut := ""
	switch {
	case err == nil:
	case err == io.EOF:
		t.file = nil
	case errors.Is(err, node.ErrLeftOut):
		t.file = nil
		m := err.Error()
		leftOut = m[:min(len(m), maxMessage)]
	default:
		return 0, err
	}
	if n > 0 {
		putHeader(p, frameData, n)
		done = frameHeader + n
	}
	if t.file == nil {
		frame := make([]byte, frameHeader, frameHeader+len(leftOut))
		putHeader(frame, frameFileEnd, len(leftOut))
		done += t.give(p[done:], append(frame, leftOut...))
	}
	return done, nil
}

// give copies frame to p, and keeps what does not fit.
func (t *treeReader) give(p, frame []byte) int {
	n := copy(p, frame)
	t.rest = frame[n:]
	return n
}

// errFrame is the error of a stream that is not one of frames, or of frames that
// cannot follow each other.
var errFrame = errors.New("malformed stream of a tree")

// outcomeError is what the end of a stream says.
type outcomeError struct{ error }

func (e outcomeError) Unwrap() error { return e.error }

// leftOutError is why the other side has left a file out.
type leftOutError struct{ message string }

func (e *leftOutError) Error() string { return e.message }
func (e *leftOutError) Unwrap() error { return node.ErrLeftOut }

// itemReader reads such a stream.
type itemReader struct {
	r      *bufio.Reader
	bare   bool // items only: files have no content here
	put    bool // files may be said to be as their parents have them
	inFile bool // the content of a file has not ended
	files  int  // that have begun
	left   int  // bytes of a data frame that have not been read
	buf    []byte
	err    error // the stream has ended with it
}

func newItemReader(r io.Reader) *itemReader {
	return &itemReader{r: bufio.NewReaderSize(r, 64<<10)}
}

// next gives the next item; what is left of a file is skipped. It gives io.EOF
// after the frame that says that all went well, and only then.
func (r *itemReader) next() (node.Item, error) {
	for r.inFile {
		if _, err := r.read(nil); err != nil && err != io.EOF && r.err != nil {
			return node.Item{}, r.err
		}
	}
	kind, n, err := r.header()
	if err != nil {
		return node.Item{}, err
	}
	if kind != frameItem {
		return node.Item{}, r.fail(errFrame)
	}
	b, err := r.take(n)
	if err != nil {
		return node.Item{}, err
	}
	item, same, err := decodeItem(b)
	if err == nil && same && !r.put {
		err = errFrame
	}
	if err != nil {
		return node.Item{}, r.fail(err)
	}
	if item.Entry.Kind == volume.FileEntry && !r.bare {
		r.inFile = !same
		r.files++
	}
	return item, nil
}

// read gives content of the file whose item came last, up to io.EOF or an error
// that wraps node.ErrLeftOut; with nil for p it skips some.
func (r *itemReader) read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if !r.inFile {
		return 0, io.EOF
	}
	if r.left == 0 {
		kind, n, err := r.header()
		if err != nil {
			return 0, err
		}
		switch {
		case kind == frameFileEnd:
			why, err := r.take(n)
			if err != nil {
				return 0, err
			}
			r.inFile = false
			if len(why) > 0 {
				return 0, &leftOutError{string(why)}
			}
			return 0, io.EOF
		case kind != frameData || n == 0:
			return 0, r.fail(errFrame)
		}
		r.left = n
	}
	var n int
	var err error
	if p == nil {
		n, err = r.r.Discard(r.left)
	} else {
		n, err = r.r.Read(p[:min(len(p), r.left)])
	}
	r.left -= n
	if err != nil {
		return n, r.fail(err)
	}
	return n, nil
}

// header reads the header of a frame. The frame that ends the stream it reads
// whole, and gives what that says as an error.
func (r *itemReader) header() (kind byte, n int, err error) {
	if r.err != nil {
		return 0, 0, r.err
	}
	var h [frameHeader]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		return 0, 0, r.fail(err)
	}
	size := binary.BigEndian.Uint32(h[1:])
	if size > maxFrame {
		return 0, 0, r.fail(errFrame)
	}
	kind, n = h[0], int(size)
	if kind != frameEnd {
		return kind, n, nil
	}
	var outcome wireError
	if err := r.payload(n, &outcome); err != nil {
		return 0, 0, err
	}
	switch err := outcome.err(); {
	case err != nil:
		r.err = outcomeError{err}
	case r.inFile:
		r.err = errFrame
	default:
		r.err = io.EOF
	}
	return 0, 0, r.err
}

// take reads n bytes, good until the next call.
func (r *itemReader) take(n int) ([]byte, error) {
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	b := r.buf[:n]
	if _, err := io.ReadFull(r.r, b); err != nil {
		return nil, r.fail(err)
	}
	return b, nil
}

// payload reads n bytes of JSON into v.
func (r *itemReader) payload(n int, v any) error {
	b, err := r.take(n)
	if err == nil && json.Unmarshal(b, v) != nil {
		err = r.fail(errFrame)
	}
	return err
}

// fail ends the stream with err. That of a stream which just stops is not io.EOF.
func (r *itemReader) fail(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	r.err = err
	return err
}

// cause is err as the one who asked for the stream should see it.
func (r *itemReader) cause(ctx context.Context, err error) error {
	if o, ok := errors.AsType[outcomeError](err); ok {
		return o.error
	}
	return lost(ctx, err)
}

// wireSource is the source of a tree that comes as a stream.
type wireSource struct {
	items *itemReader
}

func (s *wireSource) Next(ctx context.Context) (node.Item, io.Reader, error) {
	if ctx.Err() != nil {
		return node.Item{}, nil, context.Cause(ctx)
	}
	item, err := s.items.next()
	if err == io.EOF {
		return node.Item{}, nil, io.EOF
	}
	if err != nil {
		return node.Item{}, nil, s.about(err)
	}
	if !s.items.inFile {
		return item, nil, nil
	}
	return item, &wireFile{s, s.items.files}, nil
}

func (s *wireSource) about(err error) error { return fmt.Errorf("tree from the client: %w", err) }

// wireFile is the content of one file of it.
type wireFile struct {
	s    *wireSource
	file int // which
}

func (f *wireFile) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if f.s.items.files != f.file {
		return 0, errors.New("the file is over")
	}
	n, err := f.s.items.read(p)
	if err != nil && err != io.EOF && !errors.Is(err, node.ErrLeftOut) {
		err = f.s.about(err)
	}
	return n, err
}

// itemWriter is a sink that writes such a stream.
type itemWriter struct {
	w      io.Writer
	begin  func() // called before the first frame
	inFile bool
}

var _ node.TreeSink = (*itemWriter)(nil)

// Take writes an item, and gives what writes its content.
func (t *itemWriter) Take(i node.Item) (io.Writer, error) {
	if err := t.endFile(); err != nil {
		return nil, err
	}
	if err := t.item(i); err != nil || i.Entry.Kind != volume.FileEntry {
		return nil, err
	}
	t.inFile = true
	return frameWriter{t.w}, nil
}

// item writes an item without content.
func (t *itemWriter) item(i node.Item) error {
	frame, err := itemFrame(i, false)
	if err != nil {
		return fmt.Errorf("%q: %w", i.Path, err)
	}
	t.begin()
	_, err = t.w.Write(frame)
	return err
}

func (t *itemWriter) endFile() error {
	if !t.inFile {
		return nil
	}
	t.inFile = false
	var frame [frameHeader]byte
	putHeader(frame[:], frameFileEnd, 0)
	_, err := t.w.Write(frame[:])
	return err
}

// end writes the outcome of all.
func (t *itemWriter) end(outcome error) error {
	if outcome == nil {
		if err := t.endFile(); err != nil {
			return err
		}
	}
	t.begin()
	_, err := t.w.Write(endFrame(outcome))
	return err
}

// frameWriter writes content as frames of data.
type frameWriter struct{ w io.Writer }

func (f frameWriter) Write(p []byte) (int, error) {
	done := 0
	for len(p) > 0 {
		piece := p[:min(len(p), maxFrame)]
		var h [frameHeader]byte
		putHeader(h[:], frameData, len(piece))
		if _, err := f.w.Write(h[:]); err != nil {
			return done, err
		}
		n, err := f.w.Write(piece)
		done += n
		if err != nil {
			return done, err
		}
		p = p[len(piece):]
	}
	return done, nil
}
