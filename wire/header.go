package wire

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

const (
	storeFixed = 16 + 1
	readLen    = 32 + 2 + 2 + 1 + 1 + 1
	proveLen   = 32 + 2 + 2 + 1 + 1 + 4
	holdingLen = 1 + 8 + 1 + 2 + 2 // the longest
	listFixed  = 32 + 8
	factsLen   = 6*8 + 1 + 1 // without zone and version
	maxHeads   = 1 + MaxTips*(2+MaxHead)
)

// Status of a pack in a reply to have. On the wire: add at the end.
const (
	statusNone        = 0
	statusHeld        = 1
	statusProvisional = 2
	statusDeleted     = 3
	statusDamaged     = 4
)

// fields takes a header apart. The first error sticks; what is taken after it
// is zero.
type fields struct {
	b   []byte
	err error
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf("%w: "+format, append([]any{ErrProtocol}, args...)...)
	}
}

// need fails unless ok.
func (f *fields) need(ok bool, format string, args ...any) {
	if !ok {
		f.fail(format, args...)
	}
}

func (f *fields) take(n int) []byte {
	if f.err == nil && n > len(f.b) {
		f.fail("header is %d bytes too short", n-len(f.b))
	}
	if f.err != nil {
		return nil
	}
	b := f.b[:n:n]
	f.b = f.b[n:]
	return b
}

func (f *fields) u8() int {
	if b := f.take(1); b != nil {
		return int(b[0])
	}
	return 0
}

func (f *fields) u16() int {
	if b := f.take(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

// u32 takes a number that is below 0 where an int has 32 bits and it does not
// fit.
func (f *fields) u32() int {
	if b := f.take(4); b != nil {
		return int(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (f *fields) u64() uint64 {
	if b := f.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (f *fields) id() (id pack.ID) {
	copy(id[:], f.take(len(id)))
	return id
}

// name takes a string of at most MaxName bytes that is fit to be shown.
func (f *fields) name(what string) string {
	n := f.u8()
	f.need(n <= MaxName, "%s has %d bytes", what, n)
	s := string(f.take(n))
	f.need(clean(s, MaxName) == s, "%s is not printable", what)
	return s
}

// rest takes all that is left.
func (f *fields) rest() []byte { return f.take(len(f.b)) }

// end fails if anything is left.
func (f *fields) end() error {
	f.need(len(f.b) == 0, "header is %d bytes too long", len(f.b))
	return f.err
}

// byShard orders holders as they stand on the wire.
func byShard(a, b Holder) int {
	return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Peer, b.Peer))
}

// appendHolders appends a list of holders, ordered.
func appendHolders(b []byte, hs []Holder) ([]byte, error) {
	if len(hs) > MaxHolders {
		return nil, fmt.Errorf("%d holders, at most %d are allowed", len(hs), MaxHolders)
	}
	hs = slices.Clone(hs)
	slices.SortFunc(hs, byShard)
	b = binary.BigEndian.AppendUint16(b, uint16(len(hs)))
	for i, h := range hs {
		if len(h.Peer) < 1 || len(h.Peer) > MaxPeer {
			return nil, fmt.Errorf("holder of shard %d: a peer ID of %d bytes, want 1 to %d", h.Shard, len(h.Peer), MaxPeer)
		}
		if h.Shard < 0 || h.Shard >= maxShards {
			return nil, fmt.Errorf("holder of shard %d: no such shard", h.Shard)
		}
		if i > 0 && h == hs[i-1] {
			return nil, fmt.Errorf("holder of shard %d: listed twice", h.Shard)
		}
		b = append(b, byte(h.Shard), byte(len(h.Peer)))
		b = append(b, h.Peer...)
	}
	return b, nil
}

func (f *fields) holders() []Holder {
	n := f.u16()
	f.need(n <= MaxHolders, "%d holders", n)
	if f.err != nil || n == 0 {
		return nil
	}
	hs := make([]Holder, 0, n)
	for i := range n {
		h := Holder{Shard: f.u8()}
		l := f.u8()
		f.need(l >= 1 && l <= MaxPeer, "a peer ID of %d bytes", l)
		h.Peer = string(f.take(l))
		f.need(i == 0 || f.err != nil || byShard(hs[i-1], h) < 0, "holders are not in order")
		if f.err != nil {
			return nil
		}
		hs = append(hs, h)
	}
	return hs
}

// encode gives the frame of q.
func (q *StoreRequest) encode() ([]byte, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	m := q.Manifest.Encode()
	b := newFrame(typeStore, storeFixed+2+len(q.Holders)*(2+MaxPeer)+len(m))
	b = append(b, q.Put[:]...)
	b = append(b, byte(q.Shard))
	b, err := appendHolders(b, q.Holders)
	if err != nil {
		return nil, err
	}
	return append(b, m...), nil
}

// check refuses what contradicts itself. The manifest's signature is the
// handler's to verify.
func (q *StoreRequest) check() error {
	if n := q.Manifest.Geometry().N(); q.Shard < 0 || q.Shard >= n {
		return fmt.Errorf("shard %d of %d", q.Shard, n)
	}
	if q.Put != [16]byte{} && len(q.Holders) > 0 {
		return fmt.Errorf("a hand-over cannot be provisional")
	}
	return nil
}

func decodeStore(b []byte) (*StoreRequest, error) {
	f := fields{b: b}
	q := new(StoreRequest)
	copy(q.Put[:], f.take(len(q.Put)))
	q.Shard = f.u8()
	q.Holders = f.holders()
	rest := f.rest()
	if f.err != nil {
		return nil, f.err
	}
	var err error
	if q.Manifest, err = pack.DecodeManifest(rest); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if err := q.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return q, nil
}

func (q *ReadRequest) encode() ([]byte, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	b := newFrame(typeRead, readLen)
	b = append(b, q.ID[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(q.K))
	b = binary.BigEndian.AppendUint16(b, uint16(q.M))
	return append(b, byte(q.Shard), byte(q.Row), byte(q.Count)), nil
}

func (q *ReadRequest) check() error {
	if err := checkShard(q.K, q.M, q.Shard); err != nil {
		return err
	}
	if q.Row < 0 || q.Count < 1 || q.Row+q.Count > MaxBlocks {
		return fmt.Errorf("rows %d to %d of at most %d", q.Row, q.Row+q.Count-1, MaxBlocks)
	}
	return nil
}

// checkShard refuses a shard that no coding of k and m has.
func checkShard(k, m, shard int) error {
	if k < 1 || m < 0 || k+m > maxShards {
		return fmt.Errorf("no coding %d+%d", k, m)
	}
	if shard < 0 || shard >= k+m {
		return fmt.Errorf("shard %d of %d", shard, k+m)
	}
	return nil
}

func decodeRead(b []byte) (ReadRequest, error) {
	f := fields{b: b}
	q := ReadRequest{ID: f.id(), K: f.u16(), M: f.u16(), Shard: f.u8(), Row: f.u8(), Count: f.u8()}
	if err := f.end(); err != nil {
		return ReadRequest{}, err
	}
	if err := q.check(); err != nil {
		return ReadRequest{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return q, nil
}

func (q *ProveRequest) encode() ([]byte, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	b := newFrame(typeProve, proveLen)
	b = append(b, q.ID[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(q.K))
	b = binary.BigEndian.AppendUint16(b, uint16(q.M))
	b = append(b, byte(q.Shard), byte(q.Row))
	return binary.BigEndian.AppendUint32(b, uint32(q.Off)), nil
}

func (q *ProveRequest) check() error {
	if err := checkShard(q.K, q.M, q.Shard); err != nil {
		return err
	}
	if q.Row < 0 || q.Row >= MaxBlocks {
		return fmt.Errorf("row %d of at most %d", q.Row, MaxBlocks)
	}
	if q.Off < 0 || q.Off >= MaxBlock {
		return fmt.Errorf("byte %d of at most %d", q.Off, MaxBlock)
	}
	return nil
}

func decodeProve(b []byte) (ProveRequest, error) {
	f := fields{b: b}
	q := ProveRequest{ID: f.id(), K: f.u16(), M: f.u16(), Shard: f.u8(), Row: f.u8(), Off: f.u32()}
	if err := f.end(); err != nil {
		return ProveRequest{}, err
	}
	if err := q.check(); err != nil {
		return ProveRequest{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return q, nil
}

func encodeProof(proof []byte) ([]byte, error) {
	if len(proof) < 1 || len(proof) > digest.MaxProof {
		return nil, fmt.Errorf("a proof of %d bytes, want 1 to %d", len(proof), digest.MaxProof)
	}
	return append(newFrame(replyProof, len(proof)), proof...), nil
}

// decodeProof takes the proof as it is.
func decodeProof(b []byte) ([]byte, error) {
	f := fields{b: b}
	f.need(len(b) >= 1 && len(b) <= digest.MaxProof, "a proof of %d bytes", len(b))
	return f.rest(), f.err
}

func encodeHave(ids []pack.ID) ([]byte, error) {
	if len(ids) < 1 || len(ids) > MaxIDs {
		return nil, fmt.Errorf("%d pack IDs, want 1 to %d", len(ids), MaxIDs)
	}
	b := newFrame(typeHave, 32*len(ids))
	for i := range ids {
		b = append(b, ids[i][:]...)
	}
	return b, nil
}

func decodeHave(b []byte) ([]pack.ID, error) {
	f := fields{b: b}
	n := len(b) / 32
	f.need(len(b)%32 == 0 && n >= 1 && n <= MaxIDs, "%d bytes of pack IDs", len(b))
	if f.err != nil {
		return nil, f.err
	}
	ids := make([]pack.ID, n)
	for i := range ids {
		ids[i] = f.id()
	}
	return ids, f.end()
}

func encodeHoldings(hs []Holding) ([]byte, error) {
	b := newFrame(replyHoldings, holdingLen*len(hs))
	for _, h := range hs {
		switch {
		case h.Deleted:
			b = append(b, statusDeleted)
			b = binary.BigEndian.AppendUint64(b, h.Number)
			continue
		case !h.Held:
			b = append(b, statusNone)
			continue
		case h.K < 1 || h.M < 0 || h.K+h.M > maxShards || h.Shard < 0 || h.Shard >= h.K+h.M:
			return nil, fmt.Errorf("shard %d of %d+%d", h.Shard, h.K, h.M)
		case h.Provisional:
			b = append(b, statusProvisional)
		case h.Damaged:
			b = append(b, statusDamaged)
		default:
			b = append(b, statusHeld)
		}
		b = binary.BigEndian.AppendUint64(b, h.Number)
		b = append(b, byte(h.Shard))
		b = binary.BigEndian.AppendUint16(b, uint16(h.K))
		b = binary.BigEndian.AppendUint16(b, uint16(h.M))
	}
	return b, nil
}

// decodeHoldings reads what a peer has of n packs.
func decodeHoldings(b []byte, n int) ([]Holding, error) {
	f := fields{b: b}
	hs := make([]Holding, n)
	for i := range hs {
		h := &hs[i]
		switch status := f.u8(); status {
		case statusNone:
		case statusDeleted:
			h.Deleted, h.Number = true, f.u64()
		case statusHeld, statusProvisional, statusDamaged:
			h.Held, h.Provisional, h.Damaged = true, status == statusProvisional, status == statusDamaged
			h.Number, h.Shard, h.K, h.M = f.u64(), f.u8(), f.u16(), f.u16()
			f.need(h.K >= 1 && h.K+h.M <= maxShards && h.Shard < h.K+h.M, "shard %d of %d+%d", h.Shard, h.K, h.M)
		default:
			f.fail("unknown status %d", status)
		}
	}
	if err := f.end(); err != nil {
		return nil, err
	}
	return hs, nil
}

func encodeID(typ byte, id pack.ID) []byte {
	return append(newFrame(typ, len(id)), id[:]...)
}

func decodeID(b []byte) (pack.ID, error) {
	f := fields{b: b}
	id := f.id()
	return id, f.end()
}

func encodeState(typ byte, st *pack.State) ([]byte, error) {
	b := st.Encode()
	if len(b) > pack.MaxManifest {
		return nil, fmt.Errorf("a state of %d bytes, at most %d are allowed", len(b), pack.MaxManifest)
	}
	return append(newFrame(typ, len(b)), b...), nil
}

func decodeState(b []byte) (*pack.State, error) {
	st, err := pack.DecodeState(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return st, nil
}

func encodeCount(n int) ([]byte, error) {
	if n < 1 || n > MaxPacks {
		return nil, fmt.Errorf("holders of %d packs, want 1 to %d", n, MaxPacks)
	}
	return binary.BigEndian.AppendUint16(newFrame(typeHolders, 2), uint16(n)), nil
}

func decodeCount(b []byte) (int, error) {
	f := fields{b: b}
	n := f.u16()
	f.need(n >= 1 && n <= MaxPacks, "holders of %d packs", n)
	return n, f.end()
}

func (p *PackHolders) encode() ([]byte, error) {
	if len(p.Holders) == 0 {
		return nil, fmt.Errorf("pack %s: no holders", p.ID.Short())
	}
	b := newFrame(typeList, listFixed+2+len(p.Holders)*(2+MaxPeer))
	b = append(b, p.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Number)
	b, err := appendHolders(b, p.Holders)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", p.ID.Short(), err)
	}
	return b, nil
}

func decodePackHolders(b []byte) (PackHolders, error) {
	f := fields{b: b}
	p := PackHolders{ID: f.id(), Number: f.u64(), Holders: f.holders()}
	f.need(len(p.Holders) > 0, "no holders")
	if err := f.end(); err != nil {
		return PackHolders{}, err
	}
	return p, nil
}

func encodeResults(codes []Code) []byte {
	b := newFrame(replyResults, len(codes))
	for _, c := range codes {
		b = append(b, statusByte(c))
	}
	return b
}

func decodeResults(b []byte, n int) ([]Code, error) {
	f := fields{b: b}
	codes := make([]Code, n)
	for i := range codes {
		codes[i] = Code(f.u8())
	}
	if err := f.end(); err != nil {
		return nil, err
	}
	return codes, nil
}

// statusByte says a code in the one byte that it has beside a block.
func statusByte(c Code) byte {
	if c > 255 {
		return byte(Internal)
	}
	return byte(c)
}

// encode gives the frame of the reply. Texts that are not fit to be sent are
// made so.
func (t *Facts) encode() ([]byte, error) {
	if t.Now.UnixMilli() < 0 {
		return nil, fmt.Errorf("a clock before 1970")
	}
	zone, version := clean(t.Zone, MaxName), clean(t.Version, MaxName)
	b := newFrame(replyFacts, factsLen+len(zone)+len(version))
	for _, n := range []uint64{t.Free, t.Capacity, t.Held, t.Shards, uint64(t.Now.UnixMilli()), t.Boot} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, byte(len(zone)))
	b = append(b, zone...)
	b = append(b, byte(len(version)))
	return append(b, version...), nil
}

func decodeFacts(b []byte) (Facts, error) {
	f := fields{b: b}
	t := Facts{Free: f.u64(), Capacity: f.u64(), Held: f.u64(), Shards: f.u64()}
	ms := f.u64()
	f.need(ms < 1<<50, "a clock %d ms after 1970", ms) // the year 37648
	t.Now = time.UnixMilli(int64(ms)).UTC()
	t.Boot = f.u64()
	t.Zone, t.Version = f.name("zone"), f.name("version")
	if err := f.end(); err != nil {
		return Facts{}, err
	}
	return t, nil
}

func encodePut(typ byte, put [16]byte) ([]byte, error) {
	if put == [16]byte{} {
		return nil, fmt.Errorf("no put")
	}
	return append(newFrame(typ, len(put)), put[:]...), nil
}

func decodePut(b []byte) (put [16]byte, err error) {
	f := fields{b: b}
	copy(put[:], f.take(len(put)))
	f.need(put != [16]byte{}, "no put")
	return put, f.end()
}

func encodeDeny(list []byte) ([]byte, error) {
	if len(list) < 1 || len(list) > MaxList {
		return nil, fmt.Errorf("a deny list of %d bytes, want 1 to %d", len(list), MaxList)
	}
	return append(newFrame(typeDeny, len(list)), list...), nil
}

func encodeOwner(owner pack.Owner) []byte {
	return append(newFrame(typeHeads, len(owner)), owner[:]...)
}

func decodeOwner(b []byte) (owner pack.Owner, err error) {
	f := fields{b: b}
	copy(owner[:], f.take(len(owner)))
	return owner, f.end()
}

// encodeHeads gives the frame of the reply, the heads ordered.
func encodeHeads(heads [][]byte) ([]byte, error) {
	if len(heads) > MaxTips {
		return nil, fmt.Errorf("%d heads, at most %d are allowed", len(heads), MaxTips)
	}
	heads = slices.Clone(heads)
	slices.SortFunc(heads, bytes.Compare)
	b := append(newFrame(replyHeads, 1), byte(len(heads)))
	for i, h := range heads {
		if err := checkHead(h); err != nil {
			return nil, err
		}
		if i > 0 && bytes.Equal(h, heads[i-1]) {
			return nil, fmt.Errorf("a head is listed twice")
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(h)))
		b = append(b, h...)
	}
	return b, nil
}

// checkHead refuses what cannot be a head, as far as is known here.
func checkHead(h []byte) error {
	if len(h) < 1 || len(h) > MaxHead {
		return fmt.Errorf("a head of %d bytes, want 1 to %d", len(h), MaxHead)
	}
	return nil
}

// decodeHeads takes heads as they are: views of b.
func decodeHeads(b []byte) ([][]byte, error) {
	f := fields{b: b}
	n := f.u8()
	f.need(n <= MaxTips, "%d heads", n)
	var heads [][]byte
	for i := 0; i < n && f.err == nil; i++ {
		l := f.u16()
		f.need(l >= 1 && l <= MaxHead, "a head of %d bytes", l)
		h := f.take(l)
		f.need(i == 0 || f.err != nil || bytes.Compare(heads[i-1], h) < 0, "heads are not in order")
		heads = append(heads, h)
	}
	if err := f.end(); err != nil {
		return nil, err
	}
	return heads, nil
}

func encodeHead(head []byte) ([]byte, error) {
	if err := checkHead(head); err != nil {
		return nil, err
	}
	return append(newFrame(typePutHead, len(head)), head...), nil
}

// decodeHead takes the head as it is.
func decodeHead(b []byte) ([]byte, error) {
	if err := checkHead(b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return b, nil
}

func (r *Refusal) encode() []byte {
	reason := clean(r.Reason, MaxReason)
	b := binary.BigEndian.AppendUint16(newFrame(replyRefused, 2+len(reason)), uint16(r.Code))
	return append(b, reason...)
}

// decodeRefusal reads a refusal. Of all headers this one is taken as it comes:
// a reason that is not fit to be shown is cleaned, for why a peer refuses
// matters more than how well it writes.
func decodeRefusal(b []byte) (*Refusal, error) {
	f := fields{b: b}
	r := &Refusal{Code: Code(f.u16()), Reason: clean(string(f.rest()), MaxReason)}
	f.need(r.Code != 0, "a refusal without a code")
	return r, f.err
}
