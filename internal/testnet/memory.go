//go:build unix

package testnet

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Peak is the most memory a process was seen to have, in bytes. Anon counts
// what it allocated (RssAnon): mapped files, which the kernel can take back at
// any time, are not in it.
type Peak struct {
	Anon int64
}

// Sampler watches the memory of processes.
type Sampler struct {
	stop chan struct{}
	done sync.WaitGroup
	peak Peak
}

// NewSampler watches the processes given, ten times a second or more, and
// notes the most that any of them had.
func NewSampler(pids ...int) *Sampler {
	s := &Sampler{stop: make(chan struct{})}
	s.done.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, pid := range pids {
				s.peak.Anon = max(s.peak.Anon, Anon(pid))
			}
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
		}
	})
	return s
}

// Stop ends the watch and gives what was seen.
func (s *Sampler) Stop() Peak {
	close(s.stop)
	s.done.Wait()
	return s.peak
}

// Anon gives the RssAnon of a process in bytes, 0 where it has ended or the
// system does not say.
func Anon(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}

// MemoryLimit makes a memory cgroup of the given bytes, of version 2 or 1 as
// the system has it, and gives the words that run a command in it, for
// [Options].Wrap and [Home].Wrap. It needs root; the error says what is
// missing.
func MemoryLimit(t TB, bytes int64) ([]string, error) {
	parent, limit := "", ""
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		parent, limit = "/sys/fs/cgroup", "memory.max"
		// Children get the controller only where the parent passes it on.
		os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte("+memory"), 0o644)
	} else {
		parent, limit = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	}
	dir, err := os.MkdirTemp(parent, "p2pfs-test-")
	if err != nil {
		return nil, fmt.Errorf("make a memory cgroup: %w", err)
	}
	t.Cleanup(func() {
		// Busy until the kernel has noticed that the processes are gone.
		Wait(t, "the cgroup "+dir+" to be empty", func() bool { err := os.Remove(dir); return err == nil || os.IsNotExist(err) })
	})
	if err := os.WriteFile(filepath.Join(dir, limit), strconv.AppendInt(nil, bytes, 10), 0o644); err != nil {
		return nil, fmt.Errorf("limit memory: %w", err)
	}
	os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0o644) // only in version 2
	return []string{"sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, dir}, nil
}
