package control

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	frameItem    = 'i' // a wireItem
	frameData    = 'd' // content of the file whose item came last, 1 byte or more
	frameFileEnd = 'f' // a fileEnd: that was all of the content
	frameEnd     = 'e' // a wireError: the outcome of all

	frameHeader = 1 + 4
	// maxFrame bounds what follows the header of a frame, in bytes. It fits an
	// entry with all its attributes in base64.
	maxFrame = 512 << 10
	// maxMessage bounds a message in a frame, in bytes, where there is no space
	// for all that an error says.
	maxMessage = 4 << 10
)

// wireItem is a node.Item on its way. All that are bytes to a file system are
// bytes here: JSON's strings are UTF-8.
type wireItem struct {
	Path   []byte      `json:"path,omitempty"`
	Name   []byte      `json:"name"`
	Kind   uint8       `json:"kind"`
	Mode   uint32      `json:"mode,omitempty"`
	UID    uint32      `json:"uid"`
	GID    uint32      `json:"gid"`
	Sec    int64       `json:"sec"` // of the time of last modification, Unix time
	Nsec   int64       `json:"nsec,omitempty"`
	Size   int64       `json:"size,omitempty"`
	Xattrs []wireXattr `json:"xattrs,omitempty"`
	Target []byte      `json:"target,omitempty"`
	Device uint64      `json:"device,omitempty"`
	Group  uint64      `json:"group,omitempty"`
	Sparse bool        `json:"sparse,omitempty"`
	Files  int64       `json:"files,omitempty"`
	Bytes  int64       `json:"bytes,omitempty"`
	Inode  uint64      `json:"inode,omitempty"`
	Same   bool        `json:"same,omitempty"` // of a put: it is a file as its parent has it, and no content follows
}

type wireXattr struct {
	Name  []byte `json:"name"`
	Value []byte `json:"value,omitempty"`
}

// fileEnd says what became of a file: nothing, or why it is left out.
type fileEnd struct {
	LeftOut string `json:"left_out,omitempty"`
}

// itemFrame gives an item as a frame.
func itemFrame(i node.Item, same bool) ([]byte, error) {
	e := i.Entry
	w := wireItem{
		Path: []byte(i.Path), Name: []byte(e.Name), Kind: uint8(e.Kind), Mode: e.Mode, UID: e.UID, GID: e.GID,
		Sec: e.MTime.Unix(), Nsec: int64(e.MTime.Nanosecond()), Size: e.Size, Target: []byte(e.Target),
		Device: e.Device, Group: e.Group, Sparse: e.Sparse, Files: e.Files, Bytes: e.Bytes,
		Inode: e.Inode, Same: same,
	}
	for _, x := range e.Xattrs {
		w.Xattrs = append(w.Xattrs, wireXattr{x.Name, x.Value})
	}
	return jsonFrame(frameItem, w)
}

func (w *wireItem) item() (node.Item, error) {
	if w.Kind == 0 || w.Nsec < 0 || w.Nsec > 999_999_999 || w.Size < 0 || w.Files < 0 || w.Bytes < 0 {
		return node.Item{}, errFrame
	}
	i := node.Item{Path: string(w.Path), Entry: volume.Entry{
		Kind: volume.EntryKind(w.Kind), Name: string(w.Name), Mode: w.Mode, UID: w.UID, GID: w.GID,
		MTime: time.Unix(w.Sec, w.Nsec), Size: w.Size, Target: string(w.Target),
		Device: w.Device, Group: w.Group, Sparse: w.Sparse, Files: w.Files, Bytes: w.Bytes, Inode: w.Inode,
	}}
	for _, x := range w.Xattrs {
		i.Entry.Xattrs = append(i.Entry.Xattrs, volume.Xattr{Name: x.Name, Value: x.Value})
	}
	return i, nil
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
	var end fileEnd
	switch {
	case err == nil:
	case err == io.EOF:
		t.file = nil
	case errors.Is(err, node.ErrLeftOut):
		t.file = nil
		m := err.Error()
		end.LeftOut = m[:min(len(m), maxMessage)]
	default:
		return 0, err
	}
	if n > 0 {
		putHeader(p, frameData, n)
		done = frameHeader + n
	}
	if t.file == nil {
		frame, err := jsonFrame(frameFileEnd, end)
		if err != nil {
			return done, err
		}
		done += t.give(p[done:], frame)
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
	var w wireItem
	if err := r.payload(n, &w); err != nil {
		return node.Item{}, err
	}
	item, err := w.item()
	if err == nil && w.Same && !r.put {
		err = errFrame
	}
	if err != nil {
		return node.Item{}, r.fail(err)
	}
	if item.Entry.Kind == volume.FileEntry && !r.bare {
		r.inFile = !w.Same
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
			var end fileEnd
			if err := r.payload(n, &end); err != nil {
				return 0, err
			}
			r.inFile = false
			if end.LeftOut != "" {
				return 0, &leftOutError{end.LeftOut}
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

// payload reads n bytes of JSON into v.
func (r *itemReader) payload(n int, v any) error {
	if cap(r.buf) < n {
		r.buf = make([]byte, n)
	}
	b := r.buf[:n]
	if _, err := io.ReadFull(r.r, b); err != nil {
		return r.fail(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return r.fail(errFrame)
	}
	return nil
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
	frame, err := jsonFrame(frameFileEnd, fileEnd{})
	if err != nil {
		return err
	}
	_, err = t.w.Write(frame)
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
