//go:build linux

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// report is all that a run measured.
type report struct {
	Time     time.Time     `json:"time"`
	Machine  machine       `json:"machine"`
	Size     int64         `json:"size_bytes"`
	Networks []*networkRow `json:"networks"`
	Trees    *treeRow      `json:"trees,omitempty"`
	Parts    []part        `json:"parts"`
}

type machine struct {
	OS     string `json:"os"`
	Arch   string `json:"arch"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memory_bytes"`
	Go     string `json:"go"`
	Commit string `json:"commit,omitempty"`
}

func main() {
	size := bytesFlag("size", 1<<30, "bytes of the file that is stored and fetched")
	sets := flag.String("sets", "4+2/8,8+12/20", "networks to measure: redundancy/nodes, …")
	ranges := flag.Int("ranges", 400, "range reads of 128 KiB in each network")
	files := flag.Int("files", 10000, "files of 4 KiB in the tree that is stored, 0: none is")
	snapshots := flag.Int("snapshots", 365, "snapshots of a volume that are pruned")
	parts := flag.Bool("parts", true, "measure the parts by themselves too")
	out := flag.String("json", "", "write all figures to this file")
	dir := flag.String("dir", ".", "directory on the disk to measure, for homes and files")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "bench: no arguments are taken")
		os.Exit(2)
	}

	r := &report{Time: time.Now().UTC().Truncate(time.Second), Machine: thisMachine(), Size: int64(*size)}
	err := withBench(*dir, func(b *bench) {
		for set := range strings.FieldsFuncSeq(*sets, func(r rune) bool { return r == ',' }) {
			r.Networks = append(r.Networks, b.network(set, int64(*size), *ranges))
		}
		if *files > 0 {
			r.Trees = b.trees(*files, *snapshots)
		}
		if *parts {
			r.Parts = b.parts()
		}
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	r.print(os.Stdout)
	if *out != "" {
		j, err := json.MarshalIndent(r, "", "  ")
		if err == nil {
			err = os.WriteFile(*out, append(j, '\n'), 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
	}
}

// bench is one run: what testnet needs of a test.
type bench struct {
	dir      string
	cleanups []func()
	failed   bool
	temps    int
}

// stopped is what Fatalf panics with, to unwind to withBench.
type stopped struct{ err error }

// withBench calls f with a bench that works in a directory of its own, which
// is removed afterwards, as all processes are ended.
func withBench(parent string, f func(*bench)) (err error) {
	parent, err = filepath.Abs(parent)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(parent, ".bench-")
	if err != nil {
		return err
	}
	b := &bench{dir: dir}
	interrupt := make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt, syscall.SIGTERM)
	go func() {
		if _, ok := <-interrupt; ok {
			os.RemoveAll(dir) // the nodes end with this process
			os.Exit(130)
		}
	}()
	defer func() {
		if s, ok := recover().(stopped); ok {
			err = s.err
		}
		b.clean()
		signal.Stop(interrupt)
		if e := os.RemoveAll(dir); err == nil {
			err = e
		}
	}()
	f(b)
	return nil
}

// clean ends what was started since the last time.
func (b *bench) clean() {
	for len(b.cleanups) > 0 {
		last := b.cleanups[len(b.cleanups)-1]
		b.cleanups = b.cleanups[:len(b.cleanups)-1]
		last()
	}
}

func (b *bench) Helper()          {}
func (b *bench) Failed() bool     { return b.failed }
func (b *bench) Cleanup(f func()) { b.cleanups = append(b.cleanups, f) }
func (b *bench) check(err error) {
	if err != nil {
		b.Fatalf("%v", err)
	}
}
func (b *bench) say(f string, a ...any) { fmt.Fprintf(os.Stderr, "bench: "+f+"\n", a...) }

func (b *bench) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

func (b *bench) Fatalf(format string, args ...any) {
	b.failed = true
	panic(stopped{fmt.Errorf(format, args...)})
}

func (b *bench) TempDir() string {
	b.temps++
	dir := filepath.Join(b.dir, strconv.Itoa(b.temps))
	b.check(os.Mkdir(dir, 0o700))
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// bytesFlag is a flag that takes sizes such as 256MiB.
func bytesFlag(name string, value int64, usage string) *byteSize {
	v := byteSize(value)
	flag.Var(&v, name, usage)
	return &v
}

type byteSize int64

func (v *byteSize) String() string { return fmt.Sprintf("%dMiB", int64(*v)>>20) }

func (v *byteSize) Set(s string) error {
	unit, digits := int64(1), s
	for suffix, u := range map[string]int64{"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30} {
		if d, ok := strings.CutSuffix(s, suffix); ok {
			unit, digits = u, d
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n <= 0 || n > 1<<50/unit {
		return fmt.Errorf("not a size: %s (such as 256MiB)", s)
	}
	*v = byteSize(n * unit)
	return nil
}

func thisMachine() machine {
	m := machine{OS: runtime.GOOS, Arch: runtime.GOARCH, Cores: runtime.NumCPU(), Go: runtime.Version(), CPU: "unknown"}
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(cpus)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			m.CPU = strings.TrimSpace(strings.TrimLeft(name, " \t:"))
			break
		}
	}
	mem, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(mem)) {
		if v, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			m.Memory = kib << 10
		}
	}
	commit, err := exec.Command("git", "rev-parse", "--short=12", "HEAD").Output()
	if err == nil {
		m.Commit = strings.TrimSpace(string(commit))
		if changed, err := exec.Command("git", "status", "--porcelain").Output(); err != nil || len(changed) > 0 {
			m.Commit += "-dirty"
		}
	}
	return m
}
