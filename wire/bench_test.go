package wire

import (
	"context"
	"net"
	"testing"

	"github.com/p2pfs/p2pfs/erasure"
)

// benchShard is a shard of 4 MiB, of a full pack.
func benchShard(b *testing.B) *sample {
	return newSample(b, 40, 32<<20, erasure.Scheme{K: 8, M: 1})
}

// discard takes shards and forgets them.
type discard struct{ *memory }

func (discard) Store(context.Context, string, *StoreRequest) (ShardWriter, error) {
	return discardWriter{}, nil
}

type discardWriter struct{}

func (discardWriter) Write(int, []byte) error { return nil }
func (discardWriter) Commit() error           { return nil }
func (discardWriter) Abort()                  {}

// serveMany answers one request after another on one connection.
func serveMany(b *testing.B, h Handler) net.Conn {
	client, server := tcpPair(b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			// The first byte tells a next request from the end.
			one := make([]byte, 1)
			if _, err := server.Read(one); err != nil {
				return
			}
			if err := Serve(context.Background(), unread{server, &one}, "alice", Version, h); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	b.Cleanup(func() {
		client.Close()
		<-done
		server.Close()
	})
	return client
}

func BenchmarkStore(b *testing.B) {
	p := benchShard(b)
	conn := serveMany(b, discard{newMemory()})
	b.SetBytes(int64(p.geometry.ShardLen(0)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Store(conn, p.request(0), p.cell(0)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	p := benchShard(b)
	conn := serveMany(b, newMemory(p))
	q := ReadRequest{ID: p.manifest.ID(), K: 8, M: 1, Count: p.geometry.ShardRows(0)}
	buf := make([]byte, p.geometry.ShardLen(0))
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		err := Read(conn, q,
			func(row int) int { return p.geometry.CellLen(0, row) },
			func(row int) []byte { return buf[row*MaxBlock:] },
			func(row int, got []byte, err error) {
				if err != nil {
					b.Error(err)
				}
			})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFacts is the cost of a round trip.
func BenchmarkFacts(b *testing.B) {
	h := newMemory()
	h.facts.Now = h.facts.Now.AddDate(2000, 0, 0)
	conn := serveMany(b, h)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := GetFacts(conn); err != nil {
			b.Fatal(err)
		}
	}
}

// unread is a connection whose first byte has been read.
type unread struct {
	net.Conn
	first *[]byte
}

func (u unread) Read(b []byte) (int, error) {
	if len(*u.first) > 0 {
		n := copy(b, *u.first)
		*u.first = (*u.first)[n:]
		return n, nil
	}
	return u.Conn.Read(b)
}
