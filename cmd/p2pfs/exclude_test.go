package main

import "testing"

// The cases are those of gitignore's documentation, and its corners.
func TestExcludesAreAsInGitignore(t *testing.T) {
	t.Parallel()
	type paths = map[string]bool // a directory ends with a slash
	for name, c := range map[string]struct {
		patterns []string
		want     paths
	}{
		"a name, anywhere":             {[]string{"*.o"}, paths{"a.o": true, "x/y/a.o": true, "a.o/": true, ".o": true, "a.oo": false}},
		"a slash in front":             {[]string{"/*.c"}, paths{"cat-file.c": true, "mozilla-sha1/sha1.c": false}},
		"a slash behind":               {[]string{"frotz/"}, paths{"frotz/": true, "a/frotz/": true, "frotz": false}},
		"a slash within":               {[]string{"doc/frotz/"}, paths{"doc/frotz/": true, "a/doc/frotz/": false}},
		"star and slash":               {[]string{"foo/*"}, paths{"foo/test.json": true, "foo/bar/": true, "foo/bar/hello.c": false, "foo/": false}},
		"stars in front":               {[]string{"**/foo"}, paths{"foo": true, "a/foo": true, "a/b/foo/": true, "a/foox": false}},
		"stars in front of a path":     {[]string{"**/foo/bar"}, paths{"foo/bar": true, "a/b/foo/bar": true, "foo/x/bar": false}},
		"stars behind":                 {[]string{"abc/**"}, paths{"abc/": false, "abc/d": true, "abc/d/e": true, "x/abc/d": false}},
		"stars within":                 {[]string{"a/**/b"}, paths{"a/b": true, "a/x/b": true, "a/x/y/b": true, "a/x/b/c": false, "b": false}},
		"stars twice":                  {[]string{"a/**/b/**/c"}, paths{"a/b/c": true, "a/b/b/x/c": true, "a/c/b/c": true, "a/c": false}},
		"stars in a name":              {[]string{"a**b"}, paths{"ab": true, "axxb": true, "a/b": false}},
		"one byte":                     {[]string{"a?c"}, paths{"abc": true, "ac": false, "a/c": false}},
		"a class":                      {[]string{"f[a-c0]x"}, paths{"fbx": true, "f0x": true, "fdx": false}},
		"not a class":                  {[]string{"[!a]", "[^b]x"}, paths{"b": true, "a": false, "ax": true, "bx": false}},
		"a class with ]":               {[]string{"[]-]"}, paths{"]": true, "-": true, "a": false}},
		"a class with a name":          {[]string{"[[:digit:]_]"}, paths{"7": true, "_": true, "a": false, ":": false}},
		"escapes":                      {[]string{`\!important!.txt`, `\#x`, `a\*`, `[\]]`}, paths{"!important!.txt": true, "#x": true, "a*": true, "ab": false, "]": true}},
		"included again":               {[]string{"*.log", "!keep.log"}, paths{"a.log": true, "keep.log": false, "x/keep.log": false}},
		"the last wins":                {[]string{"!a", "a"}, paths{"a": true}},
		"all but one directory":        {[]string{"/*", "!/foo", "/foo/*", "!/foo/bar"}, paths{"x": true, "foo/": false, "foo/x": true, "foo/bar/": false}},
		"bytes that are no characters": {[]string{"\xff*"}, paths{"\xff\xfe": true, "a": false}},
		"many stars":                   {[]string{"*a*a*a*a*a*a*a*b"}, paths{"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa": false}},
		"none":                         {nil, paths{"a": false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var x excludes
			for _, p := range c.patterns {
				if err := x.Set(p); err != nil {
					t.Fatal(err)
				}
			}
			for path, want := range c.want {
				dir := path[len(path)-1] == '/'
				if dir {
					path = path[:len(path)-1]
				}
				if got := x.match(path, dir); got != want {
					t.Errorf("%q of %q: got %v, want %v", c.patterns, path, got, want)
				}
			}
		})
	}
	for _, bad := range []string{"", "/", "!", "!/", "a//b", "[a", "[", "[]", "[a-", `a\`, `[\`} {
		if err := new(excludes).Set(bad); err == nil {
			t.Errorf("%q: got no error, want one", bad)
		}
	}
}
