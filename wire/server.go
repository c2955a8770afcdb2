package wire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/p2pfs/p2pfs/pack"
)

// A Handler does what peers ask for; from is the raw ID of the peer that asks,
// which the stream's security has proven. Who may ask what is for the handler
// to decide: this package knows no members. Its methods are called from many
// goroutines.
//
// An error becomes a refusal: a [*Refusal] in it is sent as it is, errors of
// pack and of ctx by their codes ([CodeOf]), any other as [Internal] without a
// reason, its text staying here.
type Handler interface {
	// Store takes a shard, or refuses it: [ErrHave] where exactly that shard
	// of that coding is held (and is now as durable and as confirmed as the
	// request wants it), [Full], [Quota], [Old], [OtherNetwork], [Signature].
	// The handler verifies the manifest, with [pack.Manifest.Verify]: until
	// here it is only known to be well-formed. The same shard offered by two
	// at a time is [Busy] to the second.
	Store(ctx context.Context, from string, q *StoreRequest) (ShardWriter, error)

	// ReadBlock appends one block of what q asks for to dst, which has the
	// capacity for it: at most [MaxBlock] bytes. It is called for each row in
	// order. [NotFound] or [OtherCoding] at the first row refuses the whole
	// request; a block that is damaged is [Corrupt], and the others are asked
	// for nevertheless.
	ReadBlock(ctx context.Context, from string, q ReadRequest, row int, dst []byte) ([]byte, error)

	// Prove proves a chunk of a block, with [digest.Prove]: [NotFound],
	// [OtherCoding] or [Corrupt] where there is no such block, or it ends
	// before q.Off, or it cannot be read.
	Prove(ctx context.Context, from string, q ProveRequest) ([]byte, error)

	// Have says for each pack what is held of it, in the same order.
	Have(ctx context.Context, from string, ids []pack.ID) ([]Holding, error)

	// Manifest gives the manifest of a pack, [NotFound] where there is none.
	Manifest(ctx context.Context, from string, id pack.ID) (*pack.Manifest, error)

	// Holders learns who the holders of a pack are and confirms its shard of
	// it: [NotFound] where there is none, [Old] where a newer state is known.
	Holders(ctx context.Context, from string, p PackHolders) error

	// State takes a new state of a pack, whose signature and network it
	// verifies: [NotFound] where nothing is known of the pack, [Old] where a
	// newer state is known.
	State(ctx context.Context, from string, st *pack.State) error

	// NewestState gives the newest state known of a pack, a tombstone too,
	// [NotFound] where there is none.
	NewestState(ctx context.Context, from string, id pack.ID) (*pack.State, error)

	// Facts says what is to be known of this node.
	Facts(ctx context.Context, from string) (Facts, error)

	// Alive keeps the provisional shards of a put of the asking peer; one
	// that is not known is no error.
	Alive(ctx context.Context, from string, put [16]byte) error

	// GiveUp drops the provisional shards of a put of the asking peer; one
	// that is not known is no error.
	GiveUp(ctx context.Context, from string, put [16]byte) error

	// Deny takes a deny list, which it verifies.
	Deny(ctx context.Context, from string, list []byte) error

	// Heads gives the heads known of a volume which no other follows, at most
	// [MaxTips] of 1 to [MaxHead] bytes, in any order, none twice. None is no
	// refusal.
	Heads(ctx context.Context, from string, owner pack.Owner) ([][]byte, error)

	// PutHead takes a head, which it verifies; it is durable when PutHead
	// returns nil, also where a head that follows it is kept already:
	// [NotFound] where this peer is not among those that keep the volume's
	// heads, [Quota] where it keeps as many volumes as it will, [Busy] where it
	// keeps [MaxTips] heads that this one does not follow, [Signature],
	// [OtherNetwork], [Malformed].
	PutHead(ctx context.Context, from string, head []byte) error
}

// A ShardWriter takes the blocks of one shard, which are verified, in order of
// rows; b is valid during the call. Either Commit or Abort is called, once and
// last.
type ShardWriter interface {
	Write(row int, b []byte) error
	Commit() error // makes the shard durable; if it fails nothing is kept
	Abort()
}

// A dialect is one version of the protocol: its requests by type.
type dialect map[byte]request

// A request is how one type of request is bounded and served. What serve
// returns is for [Serve] to return.
type request struct {
	limit int
	serve func(ctx context.Context, s *session, head []byte) error
}

// dialects are the versions of the protocol.
var dialects = map[int]dialect{
	1: {
		typeStore:    {storeLimit, serveStore},
		typeRead:     {readLen, serveRead},
		typeProve:    {proveLen, serveProve},
		typeHave:     {32 * MaxIDs, serveHave},
		typeManifest: {32, serveManifest},
		typeHolders:  {2, serveHolders},
		typeState:    {pack.MaxManifest, serveState},
		typeGetState: {32, serveGetState},
		typeFacts:    {0, serveFacts},
		typeAlive:    {16, serveAlive},
		typeGiveUp:   {16, serveGiveUp},
		typeDeny:     {MaxList, serveDeny},
		typeHeads:    {32, serveHeads},
		typePutHead:  {MaxHead, servePutHead},
	},
}

// Serve answers the one request of a stream that was agreed to be of the given
// version of the protocol. The caller has set a deadline; ctx is for the
// handler. Afterwards the caller closes the stream, whatever Serve returned: to
// reset it would take back a reply that is still under way.
//
// The error is for the log, whatever it is the peer has been answered as well
// as was possible: a fault of our own, a stream that broke, or a peer that
// broke the protocol ([ErrProtocol]) or sent a block that is not what the
// manifest says ([pack.ErrCorrupt]). Refusing as such is no fault.
func Serve(ctx context.Context, rw io.ReadWriter, from string, version int, h Handler) error {
	in, err := Accept(rw, version)
	if in == nil {
		return err
	}
	return in.Serve(ctx, rw, from, h)
}

// Kind says what it costs to serve a request.
type Kind int

// The kinds of requests.
const (
	Question Kind = iota // a short answer
	Reading              // blocks are read: up to 1 MiB in memory
	Storing              // a shard may come in
)

// Incoming is a request that has been read and not been served yet.
type Incoming struct {
	Kind Kind

	request request
	head    []byte
}

// Accept does the first half of [Serve]: it reads what a stream asks for, so
// that the caller can give each kind of request its own deadline and its turn.
// It gives nil where nothing is left to serve: the stream was opened and closed
// again, or what came on it has been refused, which is the error then.
func Accept(rw io.ReadWriter, version int) (*Incoming, error) {
	s := &session{rw: rw}
	d, ok := dialects[version]
	if !ok {
		return nil, s.refuse(Refuse(Unsupported, "version %d of the protocol is not spoken here", version))
	}
	return d.accept(s)
}

// Serve does the second half of [Serve], on the stream that Accept read.
func (in *Incoming) Serve(ctx context.Context, rw io.ReadWriter, from string, h Handler) error {
	return in.request.serve(ctx, &session{rw: rw, from: from, h: h}, in.head)
}

func (d dialect) accept(s *session) (*Incoming, error) {
	typ, head, err := readFrame(s.rw, func(typ byte) int {
		if r, ok := d[typ]; ok {
			return r.limit
		}
		return defaultLimit
	})
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil // opened and closed again
	case errors.Is(err, ErrProtocol):
		return nil, s.refuse(fmt.Errorf("read request: %w", err))
	case err != nil:
		return nil, fmt.Errorf("read request: %w", err)
	}
	r, ok := d[typ]
	if !ok {
		return nil, s.refuse(Refuse(Unsupported, "request %#02x is not known here", typ))
	}
	in := &Incoming{request: r, head: head}
	switch typ {
	case typeRead, typeProve:
		in.Kind = Reading
	case typeStore:
		in.Kind = Storing
	}
	return in, nil
}

// A session is one stream being served.
type session struct {
	rw   io.ReadWriter
	from string
	h    Handler
}

// reply sends a frame.
func (s *session) reply(frame []byte) error {
	if err := writeFrame(s.rw, frame); err != nil {
		return fmt.Errorf("send reply: %w", err)
	}
	return nil
}

// answer sends what encode gave, or a refusal where err says so.
func (s *session) answer(frame []byte, err error) error {
	if err != nil {
		return s.refuse(err)
	}
	return s.reply(frame)
}

// ok acknowledges, or refuses where err says so.
func (s *session) ok(err error) error { return s.answer(newFrame(replyOK, 0), err) }

// refuse tells the peer why its request is not granted and gives what is worth
// logging of it.
func (s *session) refuse(err error) error {
	r := refusalOf(err)
	werr := s.reply(r.encode())
	switch r.Code {
	case Internal, Malformed, Corrupt, Signature:
		return err
	}
	return werr
}

func serveStore(ctx context.Context, s *session, head []byte) error {
	q, err := decodeStore(head)
	if err != nil {
		return s.refuse(fmt.Errorf("store: %w", err))
	}
	w, err := s.h.Store(ctx, s.from, q)
	if errors.Is(err, ErrHave) {
		return s.reply(newFrame(replyHave, 0))
	}
	if err != nil {
		return s.refuse(err)
	}
	if err := s.reply(newFrame(replyGo, 0)); err != nil {
		w.Abort()
		return err
	}
	left, err := s.receive(q, w)
	if err != nil {
		w.Abort()
		err = s.refuse(fmt.Errorf("store shard %d of pack %s: %w", q.Shard, q.Manifest.ID().Short(), err))
		s.drain(left)
		return err
	}
	return s.ok(w.Commit())
}

// receive reads a shard block by block, verifies each and writes it. It gives
// how many bytes of the shard were left to read when it failed.
func (s *session) receive(q *StoreRequest, w ShardWriter) (left int, err error) {
	buf := blockPool.Get().(*blockBuffer)
	defer blockPool.Put(buf)
	g := q.Manifest.Geometry()
	left = g.ShardLen(q.Shard)
	for row := range g.ShardRows(q.Shard) {
		b := buf[:g.CellLen(q.Shard, row)]
		if _, err := io.ReadFull(s.rw, b); errors.Is(unexpected(err), io.ErrUnexpectedEOF) {
			return 0, fmt.Errorf("%w: the stream ended in row %d", ErrProtocol, row)
		} else if err != nil {
			return 0, fmt.Errorf("row %d: %w", row, err)
		}
		left -= len(b)
		if err := q.Manifest.VerifyBlock(q.Shard, row, b); err != nil {
			return left, err
		}
		if err := w.Write(row, b); err != nil {
			return left, err
		}
	}
	return 0, nil
}

// drain reads up to n bytes and throws them away, so that a peer in the middle
// of a Write gets to see the refusal.
func (s *session) drain(n int) {
	buf := blockPool.Get().(*blockBuffer)
	defer blockPool.Put(buf)
	for n > 0 {
		m, err := s.rw.Read(buf[:min(n, len(buf))])
		if err != nil {
			return
		}
		n -= m
	}
}

func serveRead(ctx context.Context, s *session, head []byte) error {
	q, err := decodeRead(head)
	if err != nil {
		return s.refuse(fmt.Errorf("read: %w", err))
	}
	if q.Count == 1 {
		buf := blockPool.Get().(*blockBuffer)
		defer blockPool.Put(buf)
		return s.sendBlocks(ctx, q, buf[:0])
	}
	buf := replyPool.Get().(*replyBuffer)
	defer replyPool.Put(buf)
	return s.sendBlocks(ctx, q, buf[:0])
}

// sendBlocks answers a read by way of buf, which has room for the
// acknowledgement and a block with its status at least: what fits goes out in
// one Write.
func (s *session) sendBlocks(ctx context.Context, q ReadRequest, buf []byte) error {
	var fault error // the first that is worth logging
	out := append(buf, seal(newFrame(replyOK, 0))...)
	for row := q.Row; row < q.Row+q.Count; row++ {
		if cap(out)-len(out) < 1+MaxBlock {
			if _, err := s.rw.Write(out); err != nil {
				return fmt.Errorf("send blocks: %w", err)
			}
			out = buf
		}
		at := len(out)
		b, err := s.h.ReadBlock(ctx, s.from, q, row, append(out, 0))
		if n := len(b) - at - 1; err == nil && (n < 1 || n > MaxBlock) {
			err = fmt.Errorf("a block of %d bytes", n)
		}
		if err == nil {
			out = b
			continue
		}
		code := CodeOf(err)
		if code == Internal || code == Corrupt {
			fault = cmp.Or(fault, fmt.Errorf("read pack %s, shard %d, row %d: %w", q.ID.Short(), q.Shard, row, err))
		} else if row == q.Row {
			return s.refuse(err)
		}
		out = append(out[:at], statusByte(code))
	}
	if _, err := s.rw.Write(out); err != nil {
		return fmt.Errorf("send blocks: %w", err)
	}
	return fault
}

func serveProve(ctx context.Context, s *session, head []byte) error {
	q, err := decodeProve(head)
	if err != nil {
		return s.refuse(fmt.Errorf("prove: %w", err))
	}
	proof, err := s.h.Prove(ctx, s.from, q)
	if err != nil {
		return s.refuse(fmt.Errorf("prove pack %s, shard %d, row %d: %w", q.ID.Short(), q.Shard, q.Row, err))
	}
	return s.answer(encodeProof(proof))
}

func serveHave(ctx context.Context, s *session, head []byte) error {
	ids, err := decodeHave(head)
	if err != nil {
		return s.refuse(fmt.Errorf("have: %w", err))
	}
	hs, err := s.h.Have(ctx, s.from, ids)
	if err == nil && len(hs) != len(ids) {
		err = fmt.Errorf("have: %d answers to %d questions", len(hs), len(ids))
	}
	if err != nil {
		return s.refuse(err)
	}
	return s.answer(encodeHoldings(hs))
}

func serveManifest(ctx context.Context, s *session, head []byte) error {
	id, err := decodeID(head)
	if err != nil {
		return s.refuse(fmt.Errorf("manifest: %w", err))
	}
	m, err := s.h.Manifest(ctx, s.from, id)
	if err != nil {
		return s.refuse(err)
	}
	return s.reply(append(newFrame(replyManifest, 0), m.Encode()...))
}

// serveHolders has the lists handled as they come, so that no more than one is
// in memory.
func serveHolders(ctx context.Context, s *session, head []byte) error {
	n, err := decodeCount(head)
	if err != nil {
		return s.refuse(fmt.Errorf("holders: %w", err))
	}
	var fault error
	codes := make([]Code, n)
	for i := range codes {
		p, err := readList(s.rw)
		if errors.Is(err, ErrProtocol) {
			return s.refuse(fmt.Errorf("holders: list %d: %w", i, err))
		}
		if err != nil {
			return fmt.Errorf("holders: list %d: %w", i, err)
		}
		err = s.h.Holders(ctx, s.from, p)
		if codes[i] = CodeOf(err); codes[i] == Internal {
			fault = cmp.Or(fault, fmt.Errorf("holders of pack %s: %w", p.ID.Short(), err))
		}
	}
	if err := s.reply(encodeResults(codes)); err != nil {
		return err
	}
	return fault
}

// readList reads the holders of one pack.
func readList(r io.Reader) (PackHolders, error) {
	typ, head, err := readFrame(r, func(typ byte) int {
		if typ == typeList {
			return listLimit
		}
		return 0
	})
	if err != nil {
		return PackHolders{}, unexpected(err)
	}
	if typ != typeList {
		return PackHolders{}, fmt.Errorf("%w: frame %#02x in a list of holders", ErrProtocol, typ)
	}
	return decodePackHolders(head)
}

func serveState(ctx context.Context, s *session, head []byte) error {
	st, err := decodeState(head)
	if err != nil {
		return s.refuse(fmt.Errorf("state: %w", err))
	}
	return s.ok(s.h.State(ctx, s.from, st))
}

func serveGetState(ctx context.Context, s *session, head []byte) error {
	id, err := decodeID(head)
	if err != nil {
		return s.refuse(fmt.Errorf("newest state: %w", err))
	}
	st, err := s.h.NewestState(ctx, s.from, id)
	if err != nil {
		return s.refuse(err)
	}
	return s.answer(encodeState(replyState, st))
}

func serveFacts(ctx context.Context, s *session, _ []byte) error {
	f, err := s.h.Facts(ctx, s.from)
	if err != nil {
		return s.refuse(err)
	}
	return s.answer(f.encode())
}

func serveAlive(ctx context.Context, s *session, head []byte) error {
	return servePut(ctx, s, head, s.h.Alive)
}

func serveGiveUp(ctx context.Context, s *session, head []byte) error {
	return servePut(ctx, s, head, s.h.GiveUp)
}

func servePut(ctx context.Context, s *session, head []byte, do func(context.Context, string, [16]byte) error) error {
	put, err := decodePut(head)
	if err != nil {
		return s.refuse(fmt.Errorf("sign of a put: %w", err))
	}
	return s.ok(do(ctx, s.from, put))
}

func serveDeny(ctx context.Context, s *session, head []byte) error {
	if len(head) == 0 {
		return s.refuse(fmt.Errorf("deny: %w: no list", ErrProtocol))
	}
	return s.ok(s.h.Deny(ctx, s.from, head))
}

func serveHeads(ctx context.Context, s *session, head []byte) error {
	owner, err := decodeOwner(head)
	if err != nil {
		return s.refuse(fmt.Errorf("heads: %w", err))
	}
	heads, err := s.h.Heads(ctx, s.from, owner)
	if err != nil {
		return s.refuse(err)
	}
	return s.answer(encodeHeads(heads))
}

func servePutHead(ctx context.Context, s *session, head []byte) error {
	head, err := decodeHead(head)
	if err != nil {
		return s.refuse(fmt.Errorf("put head: %w", err))
	}
	return s.ok(s.h.PutHead(ctx, s.from, head))
}
