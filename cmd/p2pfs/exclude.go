package main

import (
	"bytes"
	"errors"
	"strings"
)

// excludes are patterns of what a put leaves out, as in gitignore(5). It is the
// flag --exclude.
type excludes struct {
	patterns []pattern
	text     []string
}

// pattern is one line of a gitignore.
type pattern struct {
	include  bool     // a '!' before it: what it matches is put after all
	dirsOnly bool     // a '/' behind it
	anchored bool     // it has a '/' before or in it: it is of a path, not of a name
	parts    []string // of the path; "**" is any number of directories
}

// Set adds a pattern.
func (x *excludes) Set(text string) error {
	var p pattern
	rest := text
	if after, ok := strings.CutPrefix(rest, "!"); ok {
		p.include, rest = true, after
	}
	if before, ok := strings.CutSuffix(rest, "/"); ok {
		p.dirsOnly, rest = true, before
	}
	if after, ok := strings.CutPrefix(rest, "/"); ok {
		p.anchored, rest = true, after
	}
	p.parts = strings.Split(rest, "/")
	p.anchored = p.anchored || len(p.parts) > 1
	for _, part := range p.parts {
		if part == "" {
			return errors.New("a pattern with an empty name in it")
		}
		if _, err := matchName(part, ""); err != nil {
			return err
		}
	}
	x.patterns = append(x.patterns, p)
	x.text = append(x.text, text)
	return nil
}

func (x *excludes) String() string { return strings.Join(x.text, " ") }

// Type is what help calls the value.
func (x *excludes) Type() string { return "PATTERN" }

// match tells whether the last pattern that matches excludes path, which is
// below the root of the tree. What is below an excluded directory is not asked
// for.
func (x *excludes) match(path string, dir bool) bool {
	for i := len(x.patterns) - 1; i >= 0; i-- {
		if p := &x.patterns[i]; (dir || !p.dirsOnly) && p.match(path) {
			return !p.include
		}
	}
	return false
}

func (p *pattern) match(path string) bool {
	if !p.anchored {
		ok, _ := matchName(p.parts[0], path[strings.LastIndexByte(path, '/')+1:])
		return ok
	}
	parts, names := p.parts, strings.Split(path, "/")
	back, from := -1, 0 // the last "**" seen, and how far it reaches so far
	i, j := 0, 0
	for j < len(names) {
		if i < len(parts) && parts[i] == "**" {
			back, from = i, j
			i++
			if i == len(parts) {
				return true // all that is in the directory, which is not empty
			}
			continue
		}
		if i < len(parts) {
			if ok, _ := matchName(parts[i], names[j]); ok {
				i, j = i+1, j+1
				continue
			}
		}
		if back < 0 {
			return false
		}
		from++
		i, j = back+1, from
	}
	return i == len(parts)
}

var errPattern = errors.New("a pattern that does not end: a [ without ], or a \\ at its end")

// matchName matches a name, byte by byte, with a pattern without slashes: * is
// any bytes, ? one, [a-z] one of some, \ takes the next byte as it is. The error
// is errPattern, whatever the name.
func matchName(pattern, name string) (bool, error) {
	if err := checkPattern(pattern); err != nil {
		return false, err
	}
	back, from := -1, 0 // the last * seen, and how far it reaches so far
	i, j := 0, 0
	for i < len(pattern) || j < len(name) {
		if i < len(pattern) {
			if pattern[i] == '*' {
				back, from = i, j
				i++
				continue
			}
			if j < len(name) {
				if n, ok, _ := matchByte(pattern[i:], name[j]); ok {
					i, j = i+n, j+1
					continue
				}
			}
		}
		if back < 0 || from >= len(name) {
			return false, nil
		}
		from++
		i, j = back+1, from
	}
	return true, nil
}

func checkPattern(pattern string) error {
	for i := 0; i < len(pattern); {
		n, _, err := matchByte(pattern[i:], 0)
		if err != nil {
			return err
		}
		i += n
	}
	return nil
}

// matchByte matches c with the first element of a pattern, which is n bytes
// long.
func matchByte(pattern string, c byte) (n int, ok bool, err error) {
	switch pattern[0] {
	case '?':
		return 1, true, nil
	case '\\':
		if len(pattern) < 2 {
			return 0, false, errPattern
		}
		return 2, pattern[1] == c, nil
	case '[':
		return matchClass(pattern, c)
	}
	return 1, pattern[0] == c, nil
}

// matchClass matches c with [...], as matchByte does. A ] is one of the bytes
// where it comes first.
func matchClass(pattern string, c byte) (n int, ok bool, err error) {
	i := 1
	not := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if not {
		i++
	}
	one := func() (byte, bool) {
		if i < len(pattern) && pattern[i] == '\\' {
			i++
		}
		if i >= len(pattern) {
			return 0, false
		}
		i++
		return pattern[i-1], true
	}
	for first := true; ; first = false {
		if i >= len(pattern) {
			return 0, false, errPattern
		}
		if pattern[i] == ']' && !first {
			return i + 1, ok != not, nil
		}
		if rest := pattern[i:]; strings.HasPrefix(rest, "[:") {
			name, _, ended := strings.Cut(rest[2:], ":]")
			if set := classes[name]; ended && set != nil {
				ok = ok || set(c)
				i += len(name) + 4
				continue
			}
		}
		low, there := one()
		if !there {
			return 0, false, errPattern
		}
		high := low
		if i+1 < len(pattern) && pattern[i] == '-' && pattern[i+1] != ']' {
			i++
			if high, there = one(); !there {
				return 0, false, errPattern
			}
		}
		ok = ok || low <= c && c <= high
	}
}

// classes are the sets of bytes that have names in POSIX, [[:digit:]] and so on.
var classes = map[string]func(byte) bool{
	"alnum":  func(c byte) bool { return isDigit(c) || isUpper(c) || isLower(c) },
	"alpha":  func(c byte) bool { return isUpper(c) || isLower(c) },
	"blank":  func(c byte) bool { return c == ' ' || c == '\t' },
	"cntrl":  func(c byte) bool { return c < ' ' || c == 0x7f },
	"digit":  isDigit,
	"graph":  func(c byte) bool { return c > ' ' && c < 0x7f },
	"lower":  isLower,
	"print":  func(c byte) bool { return c >= ' ' && c < 0x7f },
	"punct":  func(c byte) bool { return c > ' ' && c < 0x7f && !isDigit(c) && !isUpper(c) && !isLower(c) },
	"space":  func(c byte) bool { return bytes.IndexByte([]byte(" \t\n\v\f\r"), c) >= 0 },
	"upper":  isUpper,
	"xdigit": func(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' },
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isUpper(c byte) bool { return 'A' <= c && c <= 'Z' }
func isLower(c byte) bool { return 'a' <= c && c <= 'z' }
