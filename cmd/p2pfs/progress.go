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

// progress shows how far a put or get is: a bar on a terminal, otherwise a line
// now and then, nothing with --quiet and --json.
type progress struct {
	a     *app
	label string
	lines rate

	mu  sync.Mutex // guards what follows
	bar *pb.ProgressBar
	off bool
}

// progress begins to show the progress of what label says. The caller calls
// end.
func (a *app) progress(label string) *progress {
	return &progress{a: a, label: label, off: a.quiet || a.json, lines: rate{begun: time.Now(), told: time.Now()}}
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
		p.bar.SetTemplateString(`{{string . "label"}} {{counters . }} {{bar . "[" "=" ">" " " "]"}} {{percent . }} {{speed . }} {{rtime . "%s left"}}`)
		p.bar.Set("label", p.label).Set(pb.Bytes, true).Set(pb.Color, false)
		p.bar.SetWriter(p.a.stderr.w).Start()
		p.a.stderr.setBar(true)
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
	begun, told time.Time
}

// line gives the line due at now, "" where none is.
func (r *rate) line(now time.Time, n node.Progress) string {
	if now.Sub(r.told) < linePeriod {
		return ""
	}
	r.told = now
	perSecond := float64(n.Done) / now.Sub(r.begun).Seconds()
	if n.Total < 0 {
		return fmt.Sprintf("%s, %s/s", formatSize(n.Done), formatSize(int64(perSecond)))
	}
	s := fmt.Sprintf("%s of %s, %s/s", formatSize(n.Done), formatSize(n.Total), formatSize(int64(perSecond)))
	if perSecond > 0 && n.Done <= n.Total {
		left := time.Duration(float64(n.Total-n.Done) / perSecond * float64(time.Second))
		s += ", " + formatDuration(left.Round(time.Second)) + " left"
	}
	return s
}
