package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

var update = flag.Bool("update", false, "write testdata anew")

// A header is one kind of header: how it is read and written again. It is how
// golden vectors and fuzzing know all of them.
type header struct {
	typ byte
	// again decodes a header and encodes what came out, a whole frame.
	again func(b []byte) ([]byte, error)
}

// again makes a header of a decode and an encode function.
func again[T any](typ byte, decode func([]byte) (T, error), encode func(T) ([]byte, error)) header {
	return header{typ, func(b []byte) ([]byte, error) {
		v, err := decode(b)
		if err != nil {
			return nil, err
		}
		out, err := encode(v)
		if err != nil {
			return nil, fmt.Errorf("what was decoded does not encode: %v", err)
		}
		return seal(out), nil
	}}
}

// Replies are read knowing how much was asked.
const asked = 5

func headers() map[string]header {
	return map[string]header{
		"store":     again(typeStore, decodeStore, (*StoreRequest).encode),
		"read":      again(typeRead, decodeRead, func(q ReadRequest) ([]byte, error) { return q.encode() }),
		"prove":     again(typeProve, decodeProve, func(q ProveRequest) ([]byte, error) { return q.encode() }),
		"have":      again(typeHave, decodeHave, encodeHave),
		"manifest":  again(typeManifest, decodeID, func(id pack.ID) ([]byte, error) { return encodeID(typeManifest, id), nil }),
		"holders":   again(typeHolders, decodeCount, encodeCount),
		"list":      again(typeList, decodePackHolders, func(p PackHolders) ([]byte, error) { return p.encode() }),
		"alive":     again(typeAlive, decodePut, func(p [16]byte) ([]byte, error) { return encodePut(typeAlive, p) }),
		"get-state": again(typeGetState, decodeID, func(id pack.ID) ([]byte, error) { return encodeID(typeGetState, id), nil }),
		"give-up":   again(typeGiveUp, decodePut, func(p [16]byte) ([]byte, error) { return encodePut(typeGiveUp, p) }),
		"heads":     again(typeHeads, decodeOwner, func(o pack.Owner) ([]byte, error) { return encodeOwner(o), nil }),
		"put-head":  again(typePutHead, decodeHead, encodeHead),
		"reply-holdings": again(replyHoldings, func(b []byte) ([]Holding, error) { return decodeHoldings(b, asked) },
			encodeHoldings),
		"reply-proof": again(replyProof, decodeProof, encodeProof),
		"reply-state": again(replyState, decodeState, func(st *pack.State) ([]byte, error) { return encodeState(replyState, st) }),
		"reply-heads": again(replyHeads, decodeHeads, encodeHeads),
		"reply-facts": again(replyFacts, decodeFacts, func(f Facts) ([]byte, error) { return f.encode() }),
		"reply-results": again(replyResults, func(b []byte) ([]Code, error) { return decodeResults(b, asked) },
			func(cs []Code) ([]byte, error) { return encodeResults(cs), nil }),
		"reply-refused": again(replyRefused, decodeRefusal, func(r *Refusal) ([]byte, error) { return r.encode(), nil }),
	}
}

// goldenFrames gives an example of each header, by name.
func goldenFrames(tb testing.TB) map[string][]byte {
	p := newSample(tb, 30, 10_000, erasure.Scheme{K: 2, M: 1})
	id := pack.ID(bytes.Repeat([]byte{0xaa}, 32))
	holders := []Holder{{"bob", 1}, {"alice", 2}, {"carol", 1}}
	facts := Facts{Free: 1 << 40, Capacity: 2 << 40, Held: 3, Shards: 4, Zone: "Küche", Version: "v0.1.0", Now: time.UnixMilli(1_800_000_000_000), Boot: 0x0123456789abcdef}
	return map[string][]byte{
		"store":     mustEncode((&StoreRequest{Put: [16]byte{1, 2, 3}, Manifest: p.manifest, Shard: 2}).encode()),
		"read":      mustEncode((&ReadRequest{ID: id, K: 8, M: 12, Shard: 19, Row: 3, Count: 5}).encode()),
		"prove":     mustEncode((&ProveRequest{ID: id, K: 8, M: 12, Shard: 19, Row: 127, Off: MaxBlock - 1}).encode()),
		"have":      mustEncode(encodeHave([]pack.ID{id, {1}})),
		"manifest":  mustEncode(encodeID(typeManifest, id), nil),
		"holders":   mustEncode(encodeCount(256)),
		"list":      mustEncode((&PackHolders{ID: id, Number: 1_800_000_000_000, Holders: holders}).encode()),
		"alive":     mustEncode(encodePut(typeAlive, [16]byte{1, 2, 3})),
		"get-state": mustEncode(encodeID(typeGetState, id), nil),
		"give-up":   mustEncode(encodePut(typeGiveUp, [16]byte{1, 2, 3})),
		"heads":     mustEncode(encodeOwner(pack.Owner(id)), nil),
		"put-head":  mustEncode(encodeHead([]byte("a head"))),
		"reply-holdings": mustEncode(encodeHoldings([]Holding{
			{},
			{Held: true, Number: 1_800_000_000_000, Shard: 19, K: 8, M: 12},
			{Held: true, Provisional: true, Number: 1_800_000_000_000, Shard: 0, K: 1, M: 255},
			{Deleted: true, Number: 1_800_000_000_001},
			{Held: true, Damaged: true, Number: 1_800_000_000_002, Shard: 3, K: 4, M: 6},
		})),
		"reply-proof":   mustEncode(encodeProof(digest.Prove(p.data[:3000], 2500))),
		"reply-state":   mustEncode(encodeState(replyState, &p.manifest.State)),
		"reply-heads":   mustEncode(encodeHeads([][]byte{[]byte("one head"), []byte("another head"), []byte("another")})),
		"reply-facts":   mustEncode(facts.encode()),
		"reply-results": mustEncode(encodeResults([]Code{0, NotFound, Old, 0, Denied}), nil),
		"reply-refused": mustEncode((&Refusal{Code: Full, Reason: "10 GiB of 10 GiB used"}).encode(), nil),
	}
}

func TestGoldenFrames(t *testing.T) {
	frames := goldenFrames(t)
	for name, h := range headers() {
		t.Run(name, func(t *testing.T) {
			got, path := frames[name], filepath.Join("testdata", name+".hex")
			if got == nil {
				t.Fatal("there is no example")
			}
			if *update {
				writeHex(t, path, got)
			}
			want := readHex(t, path)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the format has changed (-want +got):\n%s", diff)
			}
			if got[0] != h.typ {
				t.Errorf("got type %#x, want %#x", got[0], h.typ)
			}
			out, err := h.again(want[frameLen:])
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, out); diff != "" {
				t.Errorf("decoded and encoded (-want +got):\n%s", diff)
			}
			for n := range len(want) - frameLen {
				if name == "have" && n == 32 || name == "reply-refused" && n >= 2 || n >= 1 && (name == "reply-proof" || name == "put-head") {
					continue // valid as well, and something else
				}
				if _, err := h.again(want[frameLen : frameLen+n]); err == nil {
					t.Errorf("the first %d bytes were accepted", n)
				}
			}
		})
	}
}

// writeHex writes b as lines of 32 bytes.
func writeHex(t *testing.T, path string, b []byte) {
	t.Helper()
	var s strings.Builder
	for len(b) > 0 {
		n := min(32, len(b))
		s.WriteString(hex.EncodeToString(b[:n]) + "\n")
		b = b[n:]
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(s.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readHex(t *testing.T, path string) []byte {
	t.Helper()
	s, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := hex.DecodeString(strings.Join(strings.Fields(string(s)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
