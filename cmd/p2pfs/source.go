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

// checkSource refuses, before a node is asked, what cannot be the link of a
// file.
func checkSource(source string) error {
	if isVolumePath(source) {
		return usagef("give the link that put printed", "volumes are not part of this version")
	}
	if _, err := volume.ParseLink(source); err != nil {
		code := node.CodeOf(err)
		hint := ""
		if code == node.Usage {
			hint = "a link is one word that begins with p2pfs: - copy it whole"
		}
		return &node.Error{Code: code, Hint: hint, Err: err}
	}
	return nil
}
