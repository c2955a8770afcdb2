package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// logger writes what keepers say, with the peer and the time of the world.
type logger struct {
	w    *world
	p    *peer
	to   io.Writer
	only string // lines that have this
}

func (l *logger) Enabled(context.Context, slog.Level) bool { return true }
func (l *logger) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *logger) WithGroup(string) slog.Handler            { return l }

// Handle writes a line.
func (l *logger) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%9.2f h  peer %-3d  %s", l.w.t.Hours(), l.p.n, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		v := a.Value.String()
		if q := l.w.byHex(v); q != nil {
			v = fmt.Sprint("peer ", q.n)
		}
		fmt.Fprintf(&b, "  %s=%.60s", a.Key, v)
		return true
	})
	if line := b.String(); strings.Contains(line, l.only) {
		fmt.Fprintln(l.to, line)
	}
	return nil
}

// byHex finds the peer whose ID is written so.
func (w *world) byHex(s string) *peer {
	if len(s) != 76 {
		return nil
	}
	for _, p := range w.peers {
		if fmt.Sprintf("%x", p.id) == s {
			return p
		}
	}
	return nil
}
