package volume

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// MaxVolumeName is the length of the longest name of a volume in bytes.
const MaxVolumeName = 64

// ErrName is wrapped when text cannot be the name of a volume, or a path in one.
var ErrName = errors.New("no volume has such a name")

var (
	nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)
	pastForm = regexp.MustCompile(`^([0-9]{1,19})(?:-([0-9a-f]{1,64}))?$`)
)

// CheckVolumeName refuses what cannot be the name of a volume: the links of all
// begin with p2pfs.
func CheckVolumeName(name string) error {
	switch {
	case len(name) > MaxVolumeName:
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrName, len(name), MaxVolumeName)
	case !nameForm.MatchString(name):
		return fmt.Errorf("%w: %q: small letters and digits first, then also . _ -", ErrName, name)
	case strings.HasPrefix(name, "p2pfs"):
		return fmt.Errorf("%w: %q: it begins as links do", ErrName, name)
	}
	return nil
}

// Place is a path in a volume of this home, now or in the past: NAME:PATH,
// NAME@N:PATH or NAME@N-HASH:PATH.
type Place struct {
	Volume string
	Number uint64 // of the head; 0: as it is now
	Hash   string // how the head's hash begins, in hex; "": any
	Path   string // names with one slash between; "": the root
}

// String gives the text that ParsePlace reads.
func (p Place) String() string {
	s := p.Volume
	if p.Number > 0 {
		s += "@" + strconv.FormatUint(p.Number, 10)
		if p.Hash != "" {
			s += "-" + p.Hash
		}
	}
	return s + ":" + p.Path
}

// IsPlace tells whether text is meant as a path in a volume rather than as a
// link or a local file: what is before its first colon looks like the name of
// a volume.
func IsPlace(text string) bool {
	head, _, ok := strings.Cut(text, ":")
	name, _, _ := strings.Cut(head, "@")
	return ok && nameForm.MatchString(name) && !strings.HasPrefix(name, "p2pfs")
}

// ParsePlace reads a path in a volume. Slashes around the path, and doubled
// ones, do not count.
func ParsePlace(text string) (Place, error) {
	head, path, ok := strings.Cut(text, ":")
	if !ok {
		return Place{}, fmt.Errorf("%w: %q has no colon", ErrName, text)
	}
	name, past, old := strings.Cut(head, "@")
	if err := CheckVolumeName(name); err != nil {
		return Place{}, err
	}
	p := Place{Volume: name}
	if old {
		m := pastForm.FindStringSubmatch(past)
		if m == nil {
			return Place{}, fmt.Errorf("%w: after the @ of %q comes the number of a head, as 'p2pfs volume log' prints it", ErrName, text)
		}
		n, err := strconv.ParseUint(m[1], 10, 64)
		if err != nil || n == 0 {
			return Place{}, fmt.Errorf("%w: no head has the number %s", ErrName, m[1])
		}
		p.Number, p.Hash = n, m[2]
	}
	var names []string
	for n := range strings.SplitSeq(path, "/") {
		if n == "" {
			continue
		}
		if err := CheckName(n); err != nil {
			return Place{}, fmt.Errorf("path %q: %w", path, err)
		}
		names = append(names, n)
	}
	p.Path = strings.Join(names, "/")
	return p, nil
}
