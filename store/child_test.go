//go:build linux

package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
)

// TestMain lets the test binary be its own child process.
func TestMain(m *testing.M) {
	child := map[string]func(dir string, seed uint64) error{
		"crash": crashChild, "ack": ackChild, "fill": fillChild,
	}[os.Getenv("STORE_CHILD")]
	if child == nil {
		os.Exit(m.Run())
	}
	seed, err := strconv.ParseUint(os.Getenv("STORE_SEED"), 10, 64)
	if err == nil {
		err = child(os.Getenv("STORE_DIR"), seed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func childEnv(child, dir string, seed uint64) []string {
	return append(os.Environ(), "STORE_CHILD="+child, "STORE_DIR="+dir, "STORE_SEED="+strconv.FormatUint(seed, 10))
}

// panicTB lets helpers of tests run in a child.
type panicTB struct{ testing.TB }

func (panicTB) Helper()           {}
func (panicTB) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// crashPack is the pack of that number: its bytes and its coding follow from
// the seed.
func crashPack(seed, n uint64) *sample {
	rnd := rand.New(rand.NewPCG(seed, n))
	size := 1 + rnd.IntN(64<<10)
	if rnd.IntN(4) > 0 {
		size = 1 + rnd.IntN(9<<20)
	}
	return newSample(panicTB{}, rnd, size, erasure.Scheme{K: 1 + rnd.IntN(2), M: 1}, n+1)
}

const crashWriters = 4

// crashHolders is the list of holders of some of them.
var crashHolders = []Holder{{Peer: "someone", Shard: 1, Heard: 5}}

// crashVolume is the volume that gets the head of that number, of one writer.
func crashVolume(n uint64) pack.Owner { return pack.Owner{byte(n % crashWriters)} }

// crashHead is the head of that number; some lie in the value log.
func crashHead(n uint64) []byte {
	return append(binary.BigEndian.AppendUint64(nil, n), make([]byte, n/crashWriters%2*2000)...)
}

// crashChild stores shards and deletes some, and puts heads, until it is killed.
// It says what it has done: "put n", "confirmed n", "head n", and "delete n"
// before and "deleted n" after.
func crashChild(dir string, seed uint64) error {
	s, err := Open(dir, Options{size: 32 << 20})
	if err != nil {
		return err
	}
	first, err := strconv.ParseUint(os.Getenv("STORE_FIRST"), 10, 64)
	if err != nil {
		return err
	}
	var g errgroup.Group
	for i := range uint64(crashWriters) {
		g.Go(func() error {
			for n := first + i; ; n += crashWriters {
				p := crashPack(seed, n)
				w, err := s.Begin(panicCtx{}, p.m, 0, PutID{byte(n)})
				if err != nil {
					return err
				}
				for row := range p.m.Geometry().ShardRows(0) {
					if err := w.Write(row, p.cell(0, row)); err != nil {
						return err
					}
				}
				if n%7 == 3 {
					w.Abort()
					continue
				}
				if err := w.Commit(); err != nil {
					return err
				}
				fmt.Printf("put %d\n", n)
				if n%2 == 0 {
					if err := setTips(s, crashVolume(n), "someone", [][]byte{crashHead(n)}); err != nil {
						return err
					}
					fmt.Printf("head %d\n", n)
				}
				if n%3 == 0 {
					if err := s.SetHolders(p.id(), n+1, crashHolders); err != nil {
						return err
					}
					fmt.Printf("confirmed %d\n", n)
				}
				if n%5 == 4 {
					fmt.Printf("delete %d\n", n)
					if _, err := s.SetState(p.tombstone(n + 2)); err != nil {
						return err
					}
					fmt.Printf("deleted %d\n", n)
				}
			}
		})
	}
	return g.Wait()
}

func TestAcknowledgedShardsSurviveKills(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1<<63))
	dir := t.TempDir()
	state := map[uint64]string{}    // the last thing said of a pack
	tips := map[pack.Owner]uint64{} // the last head said of a volume
	var first, acknowledged uint64
	kills := 8
	if raceOn {
		kills = 2
	}
	for kill := range kills {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(childEnv("crash", dir, seed), "STORE_FIRST="+strconv.FormatUint(first, 10))
		cmd.Stderr = t.Output()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := 1 + rnd.IntN(12) // acknowledgements, and then some time
		wait := time.Duration(rnd.IntN(30)) * time.Millisecond
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			word, num, _ := strings.Cut(lines.Text(), " ")
			n, err := strconv.ParseUint(num, 10, 64)
			if err != nil {
				break // the last line, torn
			}
			if word == "head" {
				tips[crashVolume(n)] = n
			} else {
				state[n] = word
			}
			first = max(first, n+1)
			acknowledged++
			if after--; after == 0 {
				time.AfterFunc(wait, func() { _ = cmd.Process.Kill() })
			}
		}
		if err := cmd.Wait(); err == nil || after > 0 {
			t.Fatalf("child ended by itself: %v", err)
		}
		first += 2 * crashWriters // those that it may have been at

		s, err := Open(dir, Options{size: 32 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for n, word := range state {
			p := crashPack(seed, n)
			switch err := p.compare(s, 0); word {
			case "put", "confirmed":
				if err != nil {
					t.Errorf("kill %d: acknowledged shard %d: %v", kill, n, err)
					continue
				}
				// The list may be lost, what it meant to the shard may not.
				got, err := s.Pack(p.id())
				if err != nil || word == "confirmed" && got.Held[0].Provisional ||
					len(got.Holders) > 0 && (got.Number != n+1 || !slices.Equal(got.Holders, crashHolders)) {
					t.Errorf("kill %d: %s shard %d: got %+v, %v", kill, word, n, got, err)
				}
			case "deleted":
				if !errors.Is(err, ErrNotFound) {
					t.Errorf("kill %d: deleted shard %d: %v", kill, n, err)
				}
			case "delete":
				if err != nil && !errors.Is(err, ErrNotFound) {
					t.Errorf("kill %d: half deleted shard %d: %v", kill, n, err)
				}
			}
		}
		for owner, n := range tips {
			hs, err := s.Heads(owner)
			if err != nil || len(hs) != 1 || len(hs[0]) < 8 {
				t.Errorf("kill %d: acknowledged head %d: got %x, %v", kill, n, hs, err)
			} else if got := binary.BigEndian.Uint64(hs[0]); got < n || !bytes.Equal(hs[0], crashHead(got)) {
				t.Errorf("kill %d: acknowledged head %d: got %x", kill, n, hs[0])
			}
		}
		sweep(t, s)
		checkNoStrays(t, s)
		if kill%3 == 1 { // the files that the crash left are cut off and collected
			if err := s.Reclaim(t.Context()); err != nil {
				t.Error(err)
			}
			ends, err := s.tails()
			if err != nil || len(ends) > 0 {
				t.Errorf("got files too long: %v, %v", ends, err)
			}
			for n, word := range state {
				if word != "put" && word != "confirmed" {
					continue
				}
				if err := crashPack(seed, n).compare(s, 0); err != nil {
					t.Errorf("kill %d: shard %d after reclaiming: %v", kill, n, err)
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d acknowledgements", acknowledged)
}

// checkNoStrays looks for blocks, manifests and lists without a shard, and for
// shards without blocks, and counts again.
func checkNoStrays(tb testing.TB, s *Store) {
	tb.Helper()
	var want Usage
	rows := map[uint64]int{}
	for p, err := range s.each(panicCtx{}) {
		if err != nil {
			tb.Fatal(err)
		}
		if p.record.tomb != nil {
			want.Held += p.record.tomb.cost()
		}
		for _, h := range p.record.shards {
			want.Held += h.cost
			want.Shards++
			rows[h.slot] = h.rows
		}
	}
	volumes := 0
	for owner, err := range s.Volumes(panicCtx{}) {
		if err != nil {
			tb.Fatal(err)
		}
		want.Held += headsCost(row(tb, s, owner))
		volumes++
	}
	if got := s.Usage(); got.Held != want.Held || got.Shards != want.Shards || s.volumes.all != volumes {
		tb.Errorf("got usage %+v and %d volumes, want %+v and %d", got, s.volumes.all, want, volumes)
	}
	for _, id := range lists(tb, s) {
		if p, err := s.Pack(id); err != nil || p.Held[0].Deleted {
			tb.Errorf("a list is left of pack %s: %v", id, err)
		}
	}
	err := s.view(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			key := it.Item().Key()
			switch key[0] {
			case keyIntent:
				tb.Errorf("an intent is left: %x", key)
			case keyBlock:
				slot := binary.BigEndian.Uint64(key[1:])
				if n, ok := rows[slot]; !ok {
					tb.Errorf("a block is left of slot %d", slot)
				} else if int(key[9]) >= n {
					tb.Errorf("slot %d has row %d", slot, key[9])
				}
			case keyManifest:
				if _, ok := rows[binary.BigEndian.Uint64(key[1:])]; !ok {
					tb.Errorf("a manifest is left: %x", key)
				}
			}
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// panicCtx is a context that never ends.
type panicCtx struct{}

func (panicCtx) Deadline() (t time.Time, ok bool) { return }
func (panicCtx) Done() <-chan struct{}            { return nil }
func (panicCtx) Err() error                       { return nil }
func (panicCtx) Value(any) any                    { return nil }

// ackChild reads a shard from its input, stores it, and says "ok".
func ackChild(dir string, seed uint64) error {
	s, err := Open(dir, Options{noSync: os.Getenv("STORE_NOSYNC") != ""})
	if err != nil {
		return err
	}
	p := newSample(panicTB{}, rand.New(rand.NewPCG(seed, 0)), ackLen, erasure.Scheme{K: 1}, 1)
	w, err := s.Begin(panicCtx{}, p.m, 0, PutID{})
	if err != nil {
		return err
	}
	b := make([]byte, p.m.Geometry().BlockSize)
	for row := range p.m.Geometry().Rows {
		if _, err := io.ReadFull(os.Stdin, b); err != nil {
			return err
		}
		if err := p.m.VerifyBlock(0, row, b); err != nil {
			return err
		}
		if err := w.Write(row, b); err != nil {
			return err
		}
	}
	if err := w.Commit(); err != nil {
		return err
	}
	_, err = fmt.Println("ok")
	return err
}

const ackLen = 8 << 20

// syscalls is what a trace shows, in seconds.
type syscalls struct {
	received float64           // the last read of the shard ended
	acked    float64           // the acknowledgement began
	synced   map[string]string // by kind of file: a sync between the two
}

// traceAck runs ackChild under strace.
func traceAck(t *testing.T, noSync string) syscalls {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	const seed = 7
	cmd := exec.Command(strace, "-f", "-ttt", "-T", "-y", "-o", trace,
		"-e", "trace=read,write,mmap,munmap,mremap,msync,fsync,fdatasync,sync_file_range", os.Args[0])
	cmd.Env = append(childEnv("ack", filepath.Join(dir, "store"), seed), "STORE_NOSYNC="+noSync)
	p := newSample(t, rand.New(rand.NewPCG(seed, 0)), ackLen, erasure.Scheme{K: 1}, 1)
	cmd.Stdin = bytes.NewReader(p.data)
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "PTRACE") {
		t.Skipf("strace may not trace here: %s", out)
	}
	if err != nil || string(out) != "ok\n" {
		t.Fatalf("child: %v: %s", err, out)
	}
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	return parseTrace(t, string(b))
}

var (
	traceLine = regexp.MustCompile(`^(\d+) +([\d.]+) (?:<\.\.\. )?(\w+)(.*)$`)
	traceTime = regexp.MustCompile(`<([\d.]+)>$`)
	traceMap  = regexp.MustCompile(`MAP_SHARED, \d+<([^>]*)>.* = (0x[0-9a-f]+)`)
	traceAddr = regexp.MustCompile(`^\((0x[0-9a-f]+)`)
	traceFile = regexp.MustCompile(`^\(\d+<([^>]*)>`)
)

// parseTrace finds in the output of strace -f -ttt -T -y what matters.
func parseTrace(t *testing.T, trace string) syscalls {
	t.Helper()
	type call struct {
		name, args string
		from, to   float64
	}
	var calls []call
	open := map[string]call{}
	for line := range strings.Lines(trace) {
		m := traceLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			continue // signals, exits
		}
		at, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		c := call{m[3], m[4], at, at}
		if d := traceTime.FindStringSubmatch(m[4]); d != nil {
			took, _ := strconv.ParseFloat(d[1], 64)
			c.to += took
		}
		if strings.HasSuffix(m[4], "<unfinished ...>") {
			open[m[1]] = c
			continue
		}
		if strings.HasPrefix(m[4], " resumed>") {
			first := open[m[1]]
			c.from, c.to, c.args = first.from, at, first.args+m[4]
		}
		calls = append(calls, c)
	}
	s := syscalls{synced: map[string]string{}}
	for _, c := range calls {
		switch {
		case c.name == "read" && strings.HasPrefix(c.args, "(0<") && !strings.Contains(c.args, "= 0 "):
			s.received = max(s.received, c.to)
		case c.name == "write" && strings.Contains(c.args, `"ok\n"`):
			s.acked = c.from
		}
	}
	files := map[string]string{} // address -> file
	for _, c := range calls {
		var file string
		switch c.name {
		case "mmap":
			if m := traceMap.FindStringSubmatch(c.args); m != nil {
				files[m[2]] = m[1]
			}
			continue
		case "msync":
			if m := traceAddr.FindStringSubmatch(c.args); m != nil {
				file = files[m[1]]
			}
		case "fsync", "fdatasync":
			if m := traceFile.FindStringSubmatch(c.args); m != nil {
				file = m[1]
			}
		}
		if file != "" && c.from > s.received && c.to < s.acked && strings.Contains(c.args, "= 0 ") {
			s.synced[filepath.Ext(file)] = fmt.Sprintf("%s%s from %f to %f", c.name, c.args, c.from, c.to)
		}
	}
	if s.received == 0 || s.acked == 0 || s.received > s.acked {
		t.Fatalf("the trace shows no read before a write: %+v\n%s", s, trace)
	}
	return s
}

func TestAckFollowsSync(t *testing.T) {
	s := traceAck(t, "")
	for _, file := range []string{".vlog", ".mem"} { // the blocks, and the log of the index
		if s.synced[file] == "" {
			t.Errorf("no sync of a %s file began after the shard's last byte was read and ended before its acknowledgement: %+v", file, s)
		}
	}
	t.Logf("%+v", s)
}

func TestAckFollowsSyncCanFail(t *testing.T) {
	if s := traceAck(t, "1"); len(s.synced) != 0 {
		t.Errorf("a store that does not sync was seen to: %+v", s)
	}
}

// fillChild writes shards, several at a time, and prints the most anonymous
// memory it used meanwhile, in KiB.
func fillChild(dir string, seed uint64) error {
	debug.SetGCPercent(100)
	total, err := strconv.Atoi(os.Getenv("STORE_MIB"))
	if err != nil {
		return err
	}
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	base := newSample(panicTB{}, rand.New(rand.NewPCG(seed, 0)), 8<<20, erasure.Scheme{K: 1}, 1)
	var mu sync.Mutex
	peak := 0
	var g errgroup.Group
	g.SetLimit(8)
	for i := range total / 8 {
		g.Go(func() error {
			m := *base.m
			m.State.Owner = [32]byte{1, byte(i), byte(i >> 8)}
			p := &sample{&m, base.data, nil}
			w, err := s.Begin(panicCtx{}, p.m, 0, PutID{})
			if err != nil {
				return err
			}
			for row := range p.m.Geometry().Rows {
				if err := w.Write(row, p.cell(0, row)); err != nil {
					return err
				}
			}
			if err := w.Commit(); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			kib, err := rssAnon()
			peak = max(peak, kib)
			return err
		})
	}
	if err := errors.Join(g.Wait(), s.Close()); err != nil {
		return err
	}
	fmt.Println(peak)
	return nil
}

// rssAnon is the anonymous memory of this process in KiB.
func rssAnon() (int, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "RssAnon:")
	return strconv.Atoi(strings.Fields(rest)[0])
}

func TestMemoryIsBounded(t *testing.T) {
	mib := os.Getenv("STORE_FILL_MIB") // as much as the disk bears; the peak is the same
	if mib == "" {
		mib = "256"
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(childEnv("fill", t.TempDir(), 1), "STORE_MIB="+mib)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	kib, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s MiB written with at most %d MiB of anonymous memory", mib, kib>>10)
	if kib > 128<<10 && !raceOn { // the race detector's own memory is anonymous too
		t.Errorf("got %d MiB of anonymous memory, want at most 128", kib>>10)
	}
}
