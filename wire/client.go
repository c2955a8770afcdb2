package wire

import (
	"errors"
	"fmt"
	"io"

	"github.com/p2pfs/p2pfs/pack"
)

// ask sends a request and reads the reply, which is of one of the types
// wanted.
func ask(rw io.ReadWriter, request []byte, want ...byte) (typ byte, head []byte, err error) {
	if err := writeFrame(rw, request); err != nil {
		return 0, nil, fmt.Errorf("send request: %w", err)
	}
	return readReply(rw, want...)
}

// Store has a peer keep a shard and returns when the peer has it durably. It
// reports have where the peer holds exactly that shard already; nothing is
// then sent. The peer decides before a block is sent; only if it takes the
// shard is cell called, once for each row of the shard in order. The blocks are
// views that have to stay as they are until Store returns; those that lie one
// behind the other in one buffer go out together, in writes of up to 1 MiB.
//
// A peer may refuse halfway (a block that is not what the manifest says, a
// disk that fails): Store notices between two writes and returns the refusal.
// Neither side can then wait for the other forever, for while blocks are
// written the reply is read beside, and a peer that has refused reads on, and
// throws away, until the stream ends.
func Store(rw io.ReadWriter, q *StoreRequest, cell func(row int) []byte) (have bool, err error) {
	request, err := q.encode()
	if err != nil {
		return false, fmt.Errorf("store: %w", err)
	}
	typ, _, err := ask(rw, request, replyGo, replyHave)
	if err != nil {
		return false, err
	}
	if typ == replyHave {
		return true, nil
	}
	g := q.Manifest.Geometry()
	cells := make([][]byte, g.ShardRows(q.Shard))
	for row := range cells {
		cells[row] = cell(row)
		if got, want := len(cells[row]), g.CellLen(q.Shard, row); got != want {
			return false, fmt.Errorf("store: shard %d, row %d: got a block of %d bytes, want %d", q.Shard, row, got, want)
		}
	}
	return false, sendShard(rw, cells)
}

// sendShard writes blocks and waits for the acknowledgement.
func sendShard(rw io.ReadWriter, cells [][]byte) error {
	reply := make(chan error, 1)
	go func() {
		_, _, err := readReply(rw, replyOK)
		reply <- err
	}()
	for b := range gather(cells) {
		select {
		case err := <-reply:
			return tooEarly(err)
		default:
		}
		if _, err := rw.Write(b); err != nil {
			// Why the peer stopped reading is told by its reply, if it left one.
			rerr := <-reply
			if _, ok := errors.AsType[*Refusal](rerr); ok || rerr == nil {
				return tooEarly(rerr)
			}
			return fmt.Errorf("send shard: %w", err)
		}
	}
	return <-reply
}

// tooEarly gives the error that a reply means before all has been sent: even
// an acknowledgement is one.
func tooEarly(reply error) error {
	if reply == nil {
		return fmt.Errorf("send shard: %w: it acknowledged what it did not have", ErrProtocol)
	}
	return reply
}

// Read asks a peer for blocks of a shard and calls done for each, in order of
// rows. lens gives the length of the block in a row, by the geometry of the
// reader; buf a slice of at least that length to put it in. A block that the
// peer cannot give comes as a [*Refusal] with neither bytes nor reason. The
// blocks are not verified: that is the caller's, and a peer whose lengths are
// other than lens says is seen there too.
//
// To stop early, reset the stream.
func Read(rw io.ReadWriter, q ReadRequest, lens func(row int) int, buf func(row int) []byte, done func(row int, b []byte, err error)) error {
	request, err := q.encode()
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if _, _, err := ask(rw, request, replyOK); err != nil {
		return err
	}
	var status [1]byte
	for row := q.Row; row < q.Row+q.Count; row++ {
		if _, err := io.ReadFull(rw, status[:]); err != nil {
			return fmt.Errorf("read row %d of shard %d: %w", row, q.Shard, unexpected(err))
		}
		if status[0] != 0 {
			done(row, nil, &Refusal{Code: Code(status[0])})
			continue
		}
		b, n := buf(row), lens(row)
		if n < 0 || n > len(b) {
			return fmt.Errorf("read row %d of shard %d: got room for %d bytes, want %d", row, q.Shard, len(b), n)
		}
		b = b[:n]
		if _, err := io.ReadFull(rw, b); err != nil {
			return fmt.Errorf("read row %d of shard %d: %w", row, q.Shard, unexpected(err))
		}
		done(row, b, nil)
	}
	return nil
}

// Prove asks a peer for the proof that it has a chunk of a block, which has at
// most [digest.MaxProof] bytes, 1.5 KiB, where a block has up to 256 KiB. It is
// not verified: that is the caller's, with [digest.VerifyProof].
func Prove(rw io.ReadWriter, q ProveRequest) ([]byte, error) {
	request, err := q.encode()
	if err != nil {
		return nil, fmt.Errorf("prove: %w", err)
	}
	_, head, err := ask(rw, request, replyProof)
	if err != nil {
		return nil, err
	}
	proof, err := decodeProof(head)
	if err != nil {
		return nil, fmt.Errorf("prove row %d of shard %d: %w", q.Row, q.Shard, err)
	}
	return proof, nil
}

// Have asks a peer what it has of 1 to [MaxIDs] packs and gives as many
// answers, in the same order.
func Have(rw io.ReadWriter, ids []pack.ID) ([]Holding, error) {
	request, err := encodeHave(ids)
	if err != nil {
		return nil, fmt.Errorf("have: %w", err)
	}
	_, head, err := ask(rw, request, replyHoldings)
	if err != nil {
		return nil, err
	}
	hs, err := decodeHoldings(head, len(ids))
	if err != nil {
		return nil, fmt.Errorf("have: %w", err)
	}
	return hs, nil
}

// Manifest asks a peer for the manifest of a pack. It is checked to be of that
// pack; network and signature are the caller's to verify, with
// [pack.Manifest.Verify].
func Manifest(rw io.ReadWriter, id pack.ID) (*pack.Manifest, error) {
	_, head, err := ask(rw, encodeID(typeManifest, id), replyManifest)
	if err != nil {
		return nil, err
	}
	m, err := pack.DecodeManifest(head)
	if err != nil {
		return nil, fmt.Errorf("manifest of pack %s: %w: %w", id.Short(), ErrProtocol, err)
	}
	if got := m.ID(); got != id {
		return nil, fmt.Errorf("manifest of pack %s: %w: it sent that of pack %s", id.Short(), ErrProtocol, got.Short())
	}
	return m, nil
}

// Holders tells a peer who the holders of 1 to [MaxPacks] packs are, the full
// list of each; its shards of them are provisional no longer. Where the peer
// takes some lists and not others the error is a [*HoldersError].
func Holders(rw io.ReadWriter, packs []PackHolders) error {
	request, err := encodeCount(len(packs))
	if err != nil {
		return fmt.Errorf("holders: %w", err)
	}
	request = seal(request)
	for i := range packs {
		b, err := packs[i].encode()
		if err != nil {
			return fmt.Errorf("holders: %w", err)
		}
		request = append(request, seal(b)...)
	}
	if _, err := rw.Write(request); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	_, head, err := readReply(rw, replyResults)
	if err != nil {
		return err
	}
	codes, err := decodeResults(head, len(packs))
	if err != nil {
		return fmt.Errorf("holders: %w", err)
	}
	for _, c := range codes {
		if c != 0 {
			return &HoldersError{Codes: codes}
		}
	}
	return nil
}

// HoldersError says which lists of holders a peer did not take.
type HoldersError struct {
	Codes []Code // one for each list, 0 where it was taken; some are not 0
}

// Error counts them.
func (e *HoldersError) Error() string {
	refused := 0
	for _, c := range e.Codes {
		if c != 0 {
			refused++
		}
	}
	return fmt.Sprintf("%d of %d lists of holders: %v", refused, len(e.Codes), e.Unwrap())
}

// Unwrap gives the first refusal.
func (e *HoldersError) Unwrap() error {
	for _, c := range e.Codes {
		if c != 0 {
			return &Refusal{Code: c}
		}
	}
	return nil
}

// State tells a peer a new state of a pack: a renewal, another coding, a
// deletion.
func State(rw io.ReadWriter, st *pack.State) error {
	request, err := encodeState(typeState, st)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	_, _, err = ask(rw, request, replyOK)
	return err
}

// GetState asks a peer for the newest state that it knows of a pack, which may
// be a tombstone. It is checked to be of that pack; network and signature are
// the caller's to verify, with [pack.State.Verify].
func GetState(rw io.ReadWriter, id pack.ID) (*pack.State, error) {
	_, head, err := ask(rw, encodeID(typeGetState, id), replyState)
	if err != nil {
		return nil, err
	}
	st, err := decodeState(head)
	if err != nil {
		return nil, fmt.Errorf("state of pack %s: %w", id.Short(), err)
	}
	if got := st.ID(); got != id {
		return nil, fmt.Errorf("state of pack %s: %w: it sent that of pack %s", id.Short(), ErrProtocol, got.Short())
	}
	return st, nil
}

// GetFacts asks a peer about itself.
func GetFacts(rw io.ReadWriter) (Facts, error) {
	_, head, err := ask(rw, newFrame(typeFacts, 0), replyFacts)
	if err != nil {
		return Facts{}, err
	}
	f, err := decodeFacts(head)
	if err != nil {
		return Facts{}, fmt.Errorf("facts: %w", err)
	}
	return f, nil
}

// Alive tells a peer that a put goes on, so that its provisional shards are
// kept.
func Alive(rw io.ReadWriter, put [16]byte) error { return tellPut(rw, typeAlive, put) }

// GiveUp tells a peer that a put has been given up, so that its provisional
// shards go away now.
func GiveUp(rw io.ReadWriter, put [16]byte) error { return tellPut(rw, typeGiveUp, put) }

func tellPut(rw io.ReadWriter, typ byte, put [16]byte) error {
	request, err := encodePut(typ, put)
	if err != nil {
		return fmt.Errorf("sign of a put: %w", err)
	}
	_, _, err = ask(rw, request, replyOK)
	return err
}

// Deny passes a deny list on: 1 to [MaxList] bytes, opaque here.
func Deny(rw io.ReadWriter, list []byte) error {
	request, err := encodeDeny(list)
	if err != nil {
		return fmt.Errorf("deny: %w", err)
	}
	_, _, err = ask(rw, request, replyOK)
	return err
}

// Heads asks a peer for the heads that it knows of a volume which no other
// follows, at most [MaxTips], ascending by their bytes; none where it knows
// none. They are opaque here, and the caller's to verify.
func Heads(rw io.ReadWriter, owner pack.Owner) ([][]byte, error) {
	_, head, err := ask(rw, encodeOwner(owner), replyHeads)
	if err != nil {
		return nil, err
	}
	heads, err := decodeHeads(head)
	if err != nil {
		return nil, fmt.Errorf("heads of volume %s: %w", owner.Short(), err)
	}
	return heads, nil
}

// PutHead has a peer keep a head of a volume, 1 to [MaxHead] bytes, opaque
// here, and returns when the peer has it durably, or one that follows it.
func PutHead(rw io.ReadWriter, head []byte) error {
	request, err := encodeHead(head)
	if err != nil {
		return fmt.Errorf("put head: %w", err)
	}
	_, _, err = ask(rw, request, replyOK)
	return err
}
