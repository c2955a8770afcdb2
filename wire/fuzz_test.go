package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

// script is a peer that says what it is given, whatever it is told.
type script struct {
	io.Reader
	io.Writer
}

func says(b []byte) io.ReadWriter { return script{bytes.NewReader(b), io.Discard} }

// FuzzHeader checks of every kind of header that there is one encoding: what
// is accepted encodes to the same bytes.
func FuzzHeader(f *testing.F) {
	for _, b := range goldenFrames(f) {
		f.Add(b[0], b[frameLen:])
	}
	byType := map[byte]header{}
	for _, h := range headers() {
		byType[h.typ] = h
	}
	f.Fuzz(func(t *testing.T, typ byte, b []byte) {
		h, ok := byType[typ]
		if !ok {
			return
		}
		out, err := h.again(b)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Fatalf("got %v, want %v", err, ErrProtocol)
			}
			return
		}
		if typ == replyRefused {
			// Its reason is cleaned: the second time round nothing changes.
			b = out[frameLen:]
			if out, err = h.again(b); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(out[frameLen:], b) || out[0] != typ {
			t.Fatalf("decoded %x, encoded %x", b, out)
		}
	})
}

// FuzzServe sends anything to a server. Whatever it is, nothing panics and no
// shard is kept that is not what its manifest says.
func FuzzServe(f *testing.F) {
	p := newSample(f, 31, 20_000, erasure.Scheme{K: 2, M: 1})
	for _, b := range goldenFrames(f) {
		f.Add(b)
	}
	store := mustEncode(p.request(1).encode())
	f.Add(slices.Concat(store, p.shard(1)))
	f.Add(slices.Concat(store, p.shard(0)))
	f.Add(slices.Concat(frame(typeHolders, 0, 2), goldenFrames(f)["list"], goldenFrames(f)["list"]))
	f.Add(mustEncode((&ReadRequest{ID: p.manifest.ID(), K: 2, M: 1, Count: 3}).encode()))
	f.Add(mustEncode((&ProveRequest{ID: p.manifest.ID(), K: 2, M: 1, Row: 1, Off: 4000}).encode()))
	f.Add(frame(typeState, p.manifest.State.Encode()...))
	f.Add(frame(typeDeny, 1))
	f.Add(frame(typeFacts))
	f.Fuzz(func(t *testing.T, b []byte) {
		h := &checking{memory: newMemory(p), t: t}
		Serve(context.Background(), says(b), "alice", Version, h)
		if h.open != 0 {
			t.Errorf("%d writers were neither committed nor aborted", h.open)
		}
	})
}

// checking is a Handler that checks the blocks it is given.
type checking struct {
	*memory
	t    *testing.T
	open int
}

func (c *checking) Store(_ context.Context, _ string, q *StoreRequest) (ShardWriter, error) {
	c.open++
	return &checkingWriter{c: c, q: q}, nil
}

type checkingWriter struct {
	c    *checking
	q    *StoreRequest
	rows int
}

func (w *checkingWriter) Write(row int, b []byte) error {
	if row != w.rows {
		w.c.t.Errorf("got row %d, want %d", row, w.rows)
	}
	w.rows++
	if err := w.q.Manifest.VerifyBlock(w.q.Shard, row, b); err != nil {
		w.c.t.Error(err)
	}
	return nil
}

func (w *checkingWriter) Commit() error {
	w.c.open--
	if want := w.q.Manifest.Geometry().ShardRows(w.q.Shard); w.rows != want {
		w.c.t.Errorf("got %d rows, want %d", w.rows, want)
	}
	return nil
}

func (w *checkingWriter) Abort() { w.c.open-- }

// checkError fails on an error that is none of those an asking function
// promises.
func checkError(t *testing.T, err error) {
	t.Helper()
	_, refused := errors.AsType[*Refusal](err)
	_, some := errors.AsType[*HoldersError](err)
	if err != nil && !refused && !some && !errors.Is(err, ErrProtocol) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}

func addReplies(f *testing.F) {
	for name, b := range goldenFrames(f) {
		if strings.HasPrefix(name, "reply-") {
			f.Add(b)
		}
	}
	f.Add(frame(replyOK))
	f.Add(frame(replyGo))
	f.Add(frame(replyHave))
}

func FuzzClientStore(f *testing.F) {
	p := newSample(f, 32, 20_000, erasure.Scheme{K: 2, M: 1})
	addReplies(f)
	f.Add(slices.Concat(frame(replyGo), frame(replyOK)))
	f.Add(slices.Concat(frame(replyGo), goldenFrames(f)["reply-refused"]))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := Store(says(b), p.request(1), p.cell(1))
		checkError(t, err)
	})
}

func FuzzClientRead(f *testing.F) {
	p := newSample(f, 33, 20_000, erasure.Scheme{K: 2, M: 1})
	addReplies(f)
	f.Add(slices.Concat(frame(replyOK), []byte{0}, p.shard(0)[:4096], []byte{byte(Corrupt)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		rows := 0
		err := Read(says(b), ReadRequest{ID: p.manifest.ID(), K: 2, M: 1, Count: 2},
			func(row int) int { return p.geometry.CellLen(0, row) },
			func(int) []byte { return make([]byte, MaxBlock) },
			func(row int, b []byte, err error) {
				if row != rows || (err == nil) != (len(b) == p.geometry.CellLen(0, row)) {
					t.Errorf("row %d of %d: %d bytes, %v", row, rows, len(b), err)
				}
				rows++
			})
		checkError(t, err)
		if err == nil && rows != 2 {
			t.Errorf("got %d rows, want 2", rows)
		}
	})
}

func FuzzClientProve(f *testing.F) {
	addReplies(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		proof, err := Prove(says(b), ProveRequest{K: 2, M: 1})
		checkError(t, err)
		if err == nil && (len(proof) < 1 || len(proof) > digest.MaxProof) {
			t.Errorf("got a proof of %d bytes", len(proof))
		}
	})
}

func FuzzClientHave(f *testing.F) {
	addReplies(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		hs, err := Have(says(b), make([]pack.ID, asked))
		checkError(t, err)
		if err == nil && len(hs) != asked {
			t.Errorf("got %d answers, want %d", len(hs), asked)
		}
	})
}

func FuzzClientManifest(f *testing.F) {
	p := newSample(f, 34, 20_000, erasure.Scheme{K: 2, M: 1})
	addReplies(f)
	f.Add(frame(replyManifest, p.manifest.Encode()...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Manifest(says(b), p.manifest.ID())
		checkError(t, err)
		if err == nil && m.ID() != p.manifest.ID() {
			t.Errorf("got the manifest of pack %s", m.ID())
		}
	})
}

func FuzzClientState(f *testing.F) {
	p := newSample(f, 36, 20_000, erasure.Scheme{K: 2, M: 1})
	addReplies(f)
	f.Add(frame(replyState, p.manifest.State.Encode()...))
	f.Add(frame(replyState, p.manifest.State.Tombstone(1).Encode()...))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := GetState(says(b), p.manifest.ID())
		checkError(t, err)
		if err == nil && st.ID() != p.manifest.ID() {
			t.Errorf("got a state of pack %s", st.ID())
		}
	})
}

func FuzzClientHeads(f *testing.F) {
	addReplies(f)
	f.Add(frame(replyHeads, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		heads, err := Heads(says(b), pack.Owner{1})
		checkError(t, err)
		for i, h := range heads {
			if len(heads) > MaxTips || len(h) < 1 || len(h) > MaxHead || i > 0 && bytes.Compare(heads[i-1], h) >= 0 {
				t.Errorf("head %d of %d: got %x", i, len(heads), h)
			}
		}
	})
}

func FuzzClientHolders(f *testing.F) {
	addReplies(f)
	lists := make([]PackHolders, asked)
	for i := range lists {
		lists[i].Holders = []Holder{{"bob", 1}}
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkError(t, Holders(says(b), lists)) })
}

func FuzzClientFacts(f *testing.F) {
	addReplies(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		facts, err := GetFacts(says(b))
		checkError(t, err)
		if clean(facts.Zone, MaxName) != facts.Zone || clean(facts.Version, MaxName) != facts.Version {
			t.Errorf("got zone %q, version %q", facts.Zone, facts.Version)
		}
	})
}

// FuzzClientDone covers the requests that are only acknowledged.
func FuzzClientDone(f *testing.F) {
	p := newSample(f, 35, 4096, erasure.Scheme{K: 1})
	addReplies(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		checkError(t, State(says(b), &p.manifest.State))
		checkError(t, Alive(says(b), [16]byte{1}))
		checkError(t, Deny(says(b), []byte{1}))
		checkError(t, PutHead(says(b), []byte{1}))
	})
}
