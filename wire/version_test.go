package wire

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

// A version 2 as one may come to be: facts carry one more field, there is one
// more request, and all else is as it was.
const (
	typeEcho  byte = 0x20
	replyEcho byte = 0x90
)

func version2() dialect {
	d := maps.Clone(dialects[1])
	d[typeFacts] = request{0, func(ctx context.Context, s *session, _ []byte) error {
		f, err := s.h.Facts(ctx, s.from)
		if err != nil {
			return s.refuse(err)
		}
		b, err := f.encode()
		return s.answer(append(b, 42), err) // how busy it is
	}}
	d[typeEcho] = request{10, func(_ context.Context, s *session, head []byte) error {
		return s.reply(append(newFrame(replyEcho, 0), head...))
	}}
	return d
}

// askFrame sends a frame and gives the reply, whatever its type.
func askFrame(rw io.ReadWriter, b []byte) (typ byte, head []byte, err error) {
	if err := writeFrame(rw, b); err != nil {
		return 0, nil, err
	}
	return readFrame(rw, func(byte) int { return defaultLimit })
}

func TestTwoVersionsLiveSideBySide(t *testing.T) {
	p := newSample(t, 20, 100_000, erasure.Scheme{K: 2, M: 1})
	h := newMemory(p)
	h.facts = Facts{Free: 7, Now: time.UnixMilli(1).UTC()}
	versions := map[string]dialect{Protocol(1): dialects[1], Protocol(2): version2()}

	// node opens a stream to a node that serves the protocols of the given
	// names; the first of the caller's that is among them is agreed on.
	open := func(t *testing.T, speaks []string, served ...string) (conn net.Conn, agreed string) {
		t.Helper()
		i := slices.IndexFunc(speaks, func(s string) bool { return slices.Contains(served, s) })
		if i < 0 {
			t.Fatalf("no protocol is spoken by both")
		}
		d := versions[speaks[i]]
		conn, _ = against(t, transports["pipe"], func(c net.Conn) error {
			in, err := d.accept(&session{rw: c})
			if in == nil {
				return err
			}
			return in.Serve(t.Context(), c, "alice", h)
		})
		return conn, speaks[i]
	}
	old, both := []string{Protocol(1)}, []string{Protocol(2), Protocol(1)}

	for _, tt := range []struct {
		name           string
		speaks, served []string
		want           string
	}{
		{"old asks old", old, old, Protocol(1)},
		{"old asks new", old, both, Protocol(1)},
		{"new asks old", both, old, Protocol(1)},
		{"new asks new", both, both, Protocol(2)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, agreed := open(t, tt.speaks, tt.served...)
			if agreed != tt.want {
				t.Fatalf("got %s, want %s", agreed, tt.want)
			}
			if agreed == Protocol(1) {
				if got, err := GetFacts(conn); err != nil || got != h.facts {
					t.Errorf("got %v, %v, want %v", got, err, h.facts)
				}
			} else if typ, head, err := askFrame(conn, newFrame(typeFacts, 0)); err != nil || typ != replyFacts || head[len(head)-1] != 42 {
				t.Errorf("got frame %#x % x, %v, want the new field", typ, head, err)
			}

			// The new request is refused where the stream is of the old
			// version, so that who asks knows and does without.
			conn, _ = open(t, tt.speaks, tt.served...)
			typ, head, err := askFrame(conn, append(newFrame(typeEcho, 0), "hi"...))
			if err != nil {
				t.Fatal(err)
			}
			if agreed == Protocol(2) {
				if typ != replyEcho || string(head) != "hi" {
					t.Errorf("got frame %#x %q, want the echo", typ, head)
				}
			} else if r, err := decodeRefusal(head); typ != replyRefused || err != nil || r.Code != Unsupported {
				t.Errorf("got frame %#x %q, want %v", typ, head, Unsupported)
			}

			// What both versions have is the same in both.
			conn, _ = open(t, tt.speaks, tt.served...)
			if m, err := Manifest(conn, p.manifest.ID()); err != nil || m.ID() != p.manifest.ID() {
				t.Errorf("manifest: got %v", err)
			}
		})
	}
}

func TestUnknownVersionIsRefused(t *testing.T) {
	conn, end := against(t, transports["pipe"], func(c net.Conn) error {
		return Serve(context.Background(), c, "alice", 99, newMemory())
	})
	_, _, err := readReply(conn)
	if r, ok := errors.AsType[*Refusal](err); !ok || r.Code != Unsupported || !strings.Contains(r.Reason, "99") {
		t.Errorf("got %v, want %v", err, Unsupported)
	}
	if err := end(); err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestVersionsAreServed(t *testing.T) {
	for _, v := range Versions() {
		if dialects[v] == nil {
			t.Errorf("version %d is listed and not served", v)
		}
	}
	if len(Versions()) != len(dialects) || Versions()[0] != Version {
		t.Errorf("got versions %v, newest %d, want the %d that are served", Versions(), Version, len(dialects))
	}
	if got, want := Protocol(1), "/p2pfs/1.0.0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if pack.MaxBlocks != MaxBlocks || MaxBlock*MaxBlocks != pack.MaxLen || digest.MaxBlock != MaxBlock {
		t.Error("the bounds of blocks are not those of packs")
	}
}
