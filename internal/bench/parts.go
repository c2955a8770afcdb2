//go:build linux

package main

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/swarm"
)

// part is one stage of the way of a byte, measured by itself.
type part struct {
	Name      string  `json:"name"`
	MBps      float64 `json:"mb_per_s"` // 10^6 bytes a second, of what goes in
	CPUPerGiB float64 `json:"cpu_s_per_gib"`
}

// partSize is how many bytes go through each part at least.
const partSize = 512 << 20

// parts measures the stages on random bytes, which nothing compresses.
func (b *bench) parts() (ps []part) {
	b.say("parts")
	data := make([]byte, pack.MaxLen)
	_, err := io.ReadFull(rand.NewChaCha8([32]byte{2}), data)
	b.check(err)
	// add measures f, which takes n bytes through the part at each call.
	add := func(name string, n int, f func()) {
		f() // pools and tables are filled
		runtime.GC()
		before, began, done := ownCPU(), time.Now(), 0
		for done < partSize {
			f()
			done += n
		}
		seconds, used := time.Since(began).Seconds(), ownCPU()-before
		ps = append(ps, part{name, float64(done) / 1e6 / seconds, used.Seconds() / (float64(done) / (1 << 30))})
	}

	splitter := chunk.NewSplitter(nil)
	add("split into chunks", len(data), func() {
		splitter.Reset(&bytesReader{data})
		for {
			if _, err := splitter.Next(); err == io.EOF {
				return
			} else if err != nil {
				b.check(err)
			}
		}
	})
	var secret chunk.Secret
	sealed := make([]byte, 0, chunk.MaxSealed(chunk.AvgSize))
	var key chunk.Key
	add("seal chunks", chunk.AvgSize, func() { sealed, key = chunk.Seal(sealed[:0], &secret, data[:chunk.AvgSize]) })
	plain := make([]byte, 0, chunk.AvgSize)
	add("open chunks", chunk.AvgSize, func() {
		plain, err = chunk.Open(plain[:0], &key, sealed, chunk.AvgSize)
		b.check(err)
	})
	add("hash blocks", len(data), func() {
		for off := 0; off < len(data); off += erasure.MaxBlock {
			digest.Of(data[off : off+erasure.MaxBlock])
		}
	})
	content := pack.NewContent(data)
	for _, s := range []erasure.Scheme{{K: 4, M: 2}, {K: 8, M: 12}} {
		g := erasure.NewGeometry(len(data), s)
		parity := make([]byte, g.ParityLen())
		add("code "+s.String(), len(data), func() { b.check(erasure.Encode(g, data, parity)) })
		add("code "+s.String()+" and hash parity", len(data), func() {
			_, err := pack.Code(content, data, s, parity)
			b.check(err)
		})
	}
	add("store in Badger, synced", len(data)/8, b.storing(data[:len(data)/8]))
	b.clean()
	add("send over a connection", len(data), b.sending(data))
	b.clean()
	return ps
}

// storing gives a function that stores a shard of data's length: each time
// another pack's.
func (b *bench) storing(data []byte) func() {
	s, err := store.Open(b.TempDir(), store.Options{})
	b.check(err)
	b.Cleanup(func() { b.check(s.Close()) })
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	number := byte(0)
	return func() {
		number++
		data[0] = number
		content := pack.NewContent(data)
		m := &pack.Manifest{Content: content, State: *pack.NewState(pack.Network{}, pack.Owner(key.Public().(ed25519.PublicKey)),
			content, erasure.Scheme{K: 1, M: 1}, true, 1, nil)}
		m.State.Sign(key)
		w, err := s.Begin(context.Background(), m, 0, store.PutID{})
		b.check(err)
		g := m.Geometry()
		for row := range g.ShardRows(0) {
			b.check(w.Write(row, g.Cell(data, nil, 0, row)))
		}
		b.check(w.Commit())
	}
}

// sending gives a function that sends data over one stream between two hosts
// on loopback; both ends' CPU counts.
func (b *bench) sending(data []byte) func() {
	const protocol = "/p2pfs/bench"
	host := func(seed byte) *swarm.Swarm {
		s, err := swarm.New(swarm.Config{
			Key:    ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-1), seed)),
			Listen: []string{"/ip4/127.0.0.1/tcp/0"},
		})
		b.check(err)
		b.Cleanup(func() { s.Close() })
		return s
	}
	from, to := host(1), host(2)
	to.Host.SetStreamHandler(protocol, func(s network.Stream) {
		defer s.Close()
		buf := make([]byte, 256<<10)
		for { // an answer to every data's length
			if _, err := readN(s, buf, len(data)); err != nil {
				return
			}
			if _, err := s.Write([]byte{1}); err != nil {
				return
			}
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	b.Cleanup(cancel)
	b.check(from.Connect(ctx, peer.AddrInfo{ID: to.ID(), Addrs: to.Host.Addrs()}))
	stream, err := from.Host.NewStream(ctx, to.ID(), protocol)
	b.check(err)
	b.Cleanup(func() { stream.Close() })
	ack := make([]byte, 1)
	return func() {
		for off := 0; off < len(data); off += erasure.MaxBlock {
			_, err := stream.Write(data[off : off+erasure.MaxBlock])
			b.check(err)
		}
		_, err := io.ReadFull(stream, ack)
		b.check(err)
	}
}

// readN reads n bytes and throws them away.
func readN(r io.Reader, buf []byte, n int) (int, error) {
	for left := n; left > 0; {
		m, err := r.Read(buf[:min(left, len(buf))])
		left -= m
		if err != nil {
			return n - left, err
		}
	}
	return n, nil
}

// ownCPU gives the CPU time this process has used so far.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprintf("getrusage: %v", err)) // cannot fail
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bytesReader reads from memory without the shortcuts of bytes.Reader.
type bytesReader struct{ b []byte }

func (r *bytesReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}
