package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/cheggaaa/pb/v3"

	"github.com/p2pfs/p2pfs/node"
)

// linePeriod is how often progress is told where there is no terminal: often
// enough to see that something happens, seldom enough for a log.
const linePeriod = 5 * time.Second

// progress shows how far a command is: a bar on a terminal, otherwise a line
// now and then, nothing with --quiet and --json.
type progress struct {
	a     *app
	label string
	unit  string // what is counted; empty: bytes
	lines rate

	mu  sync.Mutex // guards what follows
	bar *pb.ProgressBar
	off bool
}

// progress begins to show the progress of what label says, in bytes. The caller
// calls end.
func (a *app) progress(label string) *progress { return a.progressOf(label, "") }

// progressOf is progress of something else than bytes.
func (a *app) progressOf(label, unit string) *progress {
	return &progress{a: a, label: label, unit: unit, off: a.quiet || a.json, lines: rate{unit: unit, begun: time.Now(), told: time.Now()}}
}

// The bar on a terminal, of bytes and of other things.
const (
	byteBar  = `{{string . "label"}} {{counters . }} {{bar . "[" "=" ">" " " "]"}} {{percent . }} {{speed . }} {{rtime . "%s left"}}`
	countBar = `{{string . "label"}} {{counters . }} {{string . "unit"}} {{bar . "[" "=" ">" " " "]"}} {{percent . }} {{rtime . "%s left"}}`
)

// begin says that n bytes were there before.
func (p *progress) begin(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines.from = n
}

// update takes news from any goroutine.
func (p *progress) update(n node.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off {
		return
	}
	if !p.a.stderr.terminal() {
		if line := p.lines.line(time.Now(), n); line != "" {
			fmt.Fprintf(p.a.stderr, "p2pfs: %s: %s\n", p.label, line)
		}
		return
	}
	if p.bar == nil {
		p.bar = pb.New64(max(n.Total, 0))
		if p.unit == "" {
			p.bar.SetTemplateString(byteBar).Set(pb.Bytes, true)
		} else {
			p.bar.SetTemplateString(countBar).Set("unit", p.unit)
		}
		p.bar.Set("label", p.label).Set(pb.Color, false)
		p.bar.SetCurrent(p.lines.from) // of which it takes no rate
		p.bar.SetWriter(p.a.stderr.w).Start()
		p.a.stderr.setBar(true)
	}
	if n.Total > 0 { // of a repair it is known only after a while
		p.bar.SetTotal(n.Total)
	}
	p.bar.SetCurrent(n.Done)
}

// end takes the bar away; update does nothing afterwards.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.off = true
	if p.bar != nil {
		p.bar.Finish()
		p.a.stderr.setBar(false)
	}
}

// rate makes the lines of a progress without a terminal.
type rate struct {
	unit        string // what is counted; empty: bytes
	begun, told time.Time
	from        int64 // what was there when it begun
}

// line gives the line due at now, "" where none is.
func (r *rate) line(now time.Time, n node.Progress) string {
	if now.Sub(r.told) < linePeriod {
		return ""
	}
	r.told = now
	perSecond := float64(n.Done-r.from) / now.Sub(r.begun).Seconds()
	if r.unit != "" {
		return fmt.Sprintf("%d of %d %s", n.Done, n.Total, r.unit) + timeLeft(n, perSecond)
	}
	if n.Total < 0 {
		return fmt.Sprintf("%s, %s/s", formatSize(n.Done), formatSize(int64(perSecond)))
	}
	return fmt.Sprintf("%s of %s, %s/s", formatSize(n.Done), formatSize(n.Total), formatSize(int64(perSecond))) + timeLeft(n, perSecond)
}

// timeLeft ends a line with how long it will take, where that can be said.
func timeLeft(n node.Progress, perSecond float64) string {
	if perSecond <= 0 || n.Done > n.Total {
		return ""
	}
	left := time.Duration(float64(n.Total-n.Done) / perSecond * float64(time.Second))
	return ", " + formatDuration(left.Round(time.Second)) + " left"
}
