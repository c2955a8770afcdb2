package main

import (
	"fmt"
	"path"
	"strings"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// source is what a command works on: a path in a volume of this home, or a link
// with, of a tree or volume, a path behind it. Here is only found out whether it
// is well formed, and whether a link of its kind can be meant; all else the node
// knows.
type source struct {
	place volume.Place // its Volume is empty where the source is a link
	link  volume.Link
}

// parseSource refuses, before a node is asked, what cannot be a source.
func parseSource(text string) (source, error) {
	if volume.IsPlace(text) {
		p, err := parsePlace(text)
		return source{place: p}, err
	}
	linkText, below, hasPath := volume.CutPath(text)
	link, err := volume.ParseLink(linkText)
	if err != nil {
		code := node.CodeOf(err)
		hint := ""
		if code == node.Usage {
			hint = "a link is one word that begins with p2pfs: - copy it whole"
		}
		if volume.CheckVolumeName(text) == nil {
			hint += "; what is in a volume is NAME:PATH, all of it " + text + ":"
		}
		return source{}, &node.Error{Code: code, Hint: hint, Err: err}
	}
	s := source{link: link}
	if !hasPath {
		return s, nil
	}
	if !s.mayBeTree() {
		return s, usagef("only a link to a tree or a volume is followed by a path", "a path after a link to %s", link.Kind)
	}
	for name := range strings.SplitSeq(below, "/") {
		if err := volume.CheckName(name); err != nil {
			return s, usagef("a path is the names below the tree's root, with one slash between", "path %s: %w", show(below), err)
		}
	}
	return s, nil
}

// parsePlace is volume.ParsePlace with an error for the one who typed it.
func parsePlace(text string) (volume.Place, error) {
	p, err := volume.ParsePlace(text)
	if err != nil {
		err = usagef("a path in a volume is NAME:PATH, as it was NAME@N:PATH, with N from 'p2pfs volume log NAME'; a local file is ./NAME", "%w", err)
	}
	return p, err
}

// readSource is parseSource for commands that read.
func readSource(text string) (source, error) {
	s, err := parseSource(text)
	if err == nil && (s.link.Kind == volume.KindVerify || s.link.Kind == volume.KindVolumeVerify) {
		err = refusedf("stat, health, repair and link take it", "a verify link lets nothing be read")
	}
	return s, err
}

// checkSource is parseSource for commands that need the right to verify only.
func checkSource(text string) error {
	_, err := parseSource(text)
	return err
}

// parseChange reads the place in a volume at which something is to change.
func parseChange(text string) (volume.Place, error) {
	if !volume.IsPlace(text) {
		return volume.Place{}, usagef("write NAME:PATH; 'p2pfs volume list' has the names", "a path in a volume is wanted")
	}
	p, err := parsePlace(text)
	if err != nil {
		return p, err
	}
	return p, checkChange(p)
}

// checkChange refuses what was.
func checkChange(p volume.Place) error {
	if p.Number == 0 {
		return nil
	}
	return usagef(fmt.Sprintf("%s: is how it is now", p.Volume), "head %d is the past, which nobody changes", p.Number)
}

// refusedf is an error of one who has not the right.
func refusedf(hint, format string, args ...any) error {
	return &node.Error{Code: node.Refused, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// mayBeTree tells whether a source can lead to a tree or an entry of one.
func (s source) mayBeTree() bool {
	switch s.link.Kind {
	case volume.KindTree, volume.KindVolumeRead, volume.KindVolumeWrite:
		return true
	}
	return s.place.Volume != ""
}

// name is what is fetched from a place is called: of all of a volume the volume's
// name. It is empty where only the node knows.
func (s source) name() string {
	if s.place.Path == "" {
		return s.place.Volume
	}
	return path.Base(s.place.Path)
}
