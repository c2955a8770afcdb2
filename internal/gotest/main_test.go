package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	const ok = `{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`
	for _, c := range []struct {
		name, in, want string
		skipped        int
		failed         bool
	}{
		{"pass", `{"Action":"output","Package":"p","Test":"T","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"T"}
{"Action":"output","Package":"p","Output":"PASS\n"}
` + ok, "ok  \tp\t0.1s\n", 0, false},
		{"skip", `{"Action":"output","Package":"p","Test":"T","Output":"no strace\n"}
{"Action":"skip","Package":"p","Test":"T"}
` + ok, "ok  \tp\t0.1s\n", 1, false},
		{"no tests", `{"Action":"output","Package":"p","Output":"?   \tp\t[no test files]\n"}
{"Action":"skip","Package":"p"}
`, "?   \tp\t[no test files]\n", 0, false},
		{"fail", `{"Action":"output","Package":"p","Test":"T","Output":"got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"T"}
{"Action":"output","Package":"p","Output":"FAIL\tp\n"}
{"Action":"fail","Package":"p"}
`, "got 1, want 2\nFAIL\tp\n", 0, true},
		{"build", `{"ImportPath":"p","Action":"build-output","Output":"undefined: x\n"}
{"ImportPath":"p","Action":"build-fail"}
`, "undefined: x\n", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w bytes.Buffer
			skipped, failed := report(&w, strings.NewReader(c.in))
			if w.String() != c.want || len(skipped) != c.skipped || failed != c.failed {
				t.Errorf("got %q, %d skipped, failed %v, want %q, %d, %v",
					w.String(), len(skipped), failed, c.want, c.skipped, c.failed)
			}
		})
	}
}
