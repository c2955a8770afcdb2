package main

import (
	"regexp"
	"strings"

	"github.com/p2pfs/p2pfs/member"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// volumePath matches NAME:PATH and NAME@N:PATH, the content of a volume now and
// in the past. p2pfs is never the name of a volume.
var volumePath = regexp.MustCompile(`^([a-z0-9][a-z0-9._-]*)(@[0-9a-f-]+)?:`)

func isVolumePath(s string) bool {
	return volumePath.MatchString(s) && !strings.HasPrefix(s, "p2pfs:") && !strings.HasPrefix(s, member.InvitePrefix)
}

// checkSource refuses, before a node is asked, what cannot be a link with,
// of a tree, a path behind it.
func checkSource(source string) error {
	if isVolumePath(source) {
		return usagef("give the link that put printed", "volumes are not part of this version")
	}
	text, path, below := volume.CutPath(source)
	link, err := volume.ParseLink(text)
	if err != nil {
		code := node.CodeOf(err)
		hint := ""
		if code == node.Usage {
			hint = "a link is one word that begins with p2pfs: - copy it whole"
		}
		return &node.Error{Code: code, Hint: hint, Err: err}
	}
	if !below {
		return nil
	}
	if link.Kind != volume.KindTree {
		return usagef("only a link to a tree is followed by a path", "a path after a link to %s", link.Kind)
	}
	for name := range strings.SplitSeq(path, "/") {
		if err := volume.CheckName(name); err != nil {
			return usagef("a path is the names below the tree's root, with one slash between", "path %s: %w", show(path), err)
		}
	}
	return nil
}

// isTree tells whether a source that has been checked leads to a tree or an
// entry of one.
func isTree(source string) bool {
	text, _, _ := volume.CutPath(source)
	link, err := volume.ParseLink(text)
	return err == nil && link.Kind == volume.KindTree
}
