package store

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares b with a file of hexadecimal digits.
func golden(tb testing.TB, name string, b []byte) {
	tb.Helper()
	if want := fixture(tb, name, b); !bytes.Equal(b, want) {
		tb.Errorf("%s: got %x, want %x", name, b, want)
	}
}

// fixture gives the bytes kept in testdata, after -update those it is given.
func fixture(tb testing.TB, name string, b []byte) []byte {
	tb.Helper()
	path := filepath.Join("testdata", name+".hex")
	if *update {
		var text strings.Builder
		for s := hex.EncodeToString(b); s != ""; {
			n := min(64, len(s))
			text.WriteString(s[:n] + "\n")
			s = s[n:]
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	want, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		tb.Fatal(err)
	}
	return want
}

func hashOf(s string) pack.Hash { return digest.Of([]byte(s)) }

var goldenRecords = map[string]record{
	"record-empty": {shards: []shard{}},
	"record-tombstone": {
		tomb:   &tombstone{stamp{1800000000000, hashOf("state")}, 1800000000001, []byte("an encoded state")},
		shards: []shard{},
	},
	"record-shards": {shards: []shard{
		{stamp: stamp{7, hashOf("a")}, coding: hashOf("b"), slot: 300, index: 19, k: 8, m: 12, coded: 5, rows: 16,
			cost: 4<<20 + 5, put: PutID{1, 2, 3}},
		{stamp: stamp{6, hashOf("c")}, coding: hashOf("d"), slot: 2, index: 255, k: 256, m: 0, coded: 256, rows: 128,
			cost: 1, expires: 1800000000000, damaged: true},
	}},
}

func TestRecordsAreEncodedAsEver(t *testing.T) {
	for name, r := range goldenRecords {
		b := r.encode()
		golden(t, name, b)
		got, err := decodeRecord(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		opt := cmp.AllowUnexported(record{}, shard{}, stamp{}, tombstone{})
		if diff := cmp.Diff(r, got, opt); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		for n := range b {
			if _, err := decodeRecord(b[:n]); err == nil {
				t.Errorf("%s: the first %d bytes were taken for all", name, n)
			}
		}
		if _, err := decodeRecord(append(b, 0)); err == nil {
			t.Errorf("%s: a byte too many was taken", name)
		}
		b[0]++
		_, err = decodeRecord(b)
		wantErr(t, err, ErrVersion)
	}
}

func TestImpossibleShardsAreRefused(t *testing.T) {
	good := goldenRecords["record-shards"].shards[0]
	for name, edit := range map[string]func(*shard){
		"no data shards":             func(h *shard) { h.coded = 0 },
		"more data shards than k":    func(h *shard) { h.coded = 9 },
		"no blocks":                  func(h *shard) { h.rows = 0 },
		"more blocks than there are": func(h *shard) { h.rows = 129 },
		"negative cost":              func(h *shard) { h.cost = -1 },
		"confirmed without a put":    func(h *shard) { h.put, h.confirmed = PutID{}, true },
	} {
		h := good
		edit(&h)
		_, err := decodeRecord((&record{shards: []shard{h}}).encode())
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want %v", name, err, ErrCorrupt)
		}
	}
}

var goldenHolders = holders{1800000000000, hashOf("b"), []Holder{
	{Peer: "peer one", Shard: 0, Heard: 1800000000001, Verified: 1800000000002, Failed: 1800000000003},
	{Peer: strings.Repeat("x", maxPeer), Shard: 255},
	{Peer: "peer one", Shard: 1, Heard: math.MaxInt64},
}}

func TestHoldersAreEncodedAsEver(t *testing.T) {
	b, err := goldenHolders.encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "holders", b)
	got, err := decodeHolders(b)
	if diff := cmp.Diff(goldenHolders, got, cmp.AllowUnexported(holders{})); diff != "" || err != nil {
		t.Errorf("got %v (-want +got):\n%s", err, diff)
	}
	for n := range b {
		_, err := decodeHolders(b[:n])
		wantErr(t, err, ErrCorrupt)
	}
	_, err = decodeHolders(append(b, 0))
	wantErr(t, err, ErrCorrupt)
	late := bytes.Clone(b)
	late[holdersFixed+1+1+len("peer one")] |= 0x80 // Heard
	_, err = decodeHolders(late)
	wantErr(t, err, ErrCorrupt)
	b[0]++
	_, err = decodeHolders(b)
	wantErr(t, err, ErrVersion)
	for _, bad := range [][]Holder{{{Peer: "", Shard: 0}}, {{Peer: "p", Shard: -1}}, {{Peer: "p", Shard: 256}}, {{Peer: strings.Repeat("x", maxPeer+1), Shard: 0}},
		{{Peer: "p", Heard: -1}}, {{Peer: "p", Verified: -1}}, {{Peer: "p", Failed: -1}}, make([]Holder, maxHolders+1)} {
		if _, err := (&holders{1, hashOf("b"), bad}).encode(); err == nil {
			t.Errorf("%v was encoded", bad[:1])
		}
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for _, r := range goldenRecords {
		f.Add(r.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Errorf("got error %v", err)
			}
			return
		}
		if got := r.encode(); !bytes.Equal(got, b) {
			t.Errorf("got %x, want %x", got, b)
		}
	})
}

func FuzzDecodeHolders(f *testing.F) {
	b, err := goldenHolders.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHolders(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Errorf("got error %v", err)
			}
			return
		}
		if got, err := h.encode(); err != nil || !bytes.Equal(got, b) {
			t.Errorf("got %x, %v, want %x", got, err, b)
		}
	})
}

// FuzzScanLog gives the reader of Badger's files any bytes: it must end, and
// what it calls an entry must be within the file.
func FuzzScanLog(f *testing.F) {
	entry := []byte{0, 0, 18, 4, 0, 'b', 0, 0, 0, 0, 0, 0, 0, 1, 0, 255, 255, 255, 255, 255, 255, 255, 250, 'd', 'a', 't', 'a', 0x12, 0x34, 0x56, 0x78}
	f.Add(append(make([]byte, logHeaderLen), entry...))
	f.Add(append(make([]byte, logHeaderLen), bytes.Repeat([]byte{0}, 100)...))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(dir, "000001.vlog")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		sc, err := scanLog(path)
		if err != nil {
			t.Fatal(err)
		}
		if sc.good > 0 && sc.end > int64(len(b)) {
			t.Errorf("got %+v of %d bytes", sc, len(b))
		}
	})
}
