// Command gotest runs go test for continuous integration: it prints what go
// test prints of a run, a line a package and the output of whatever failed,
// and fails where the environment says CI=true and a test was skipped, since
// a skip that nobody sees is a test that nobody has.
//
//	go run ./internal/gotest -race -short ./...
//
// All arguments go to go test.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(1)
	}
	skipped, failed := report(os.Stdout, out)
	if cmd.Wait() != nil {
		failed = true
	}
	if len(skipped) > 0 {
		fmt.Printf("%d skipped:\n%s\n", len(skipped), strings.Join(skipped, "\n"))
		if os.Getenv("CI") == "true" {
			fmt.Println("with CI=true a skipped test is a failure")
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

// event is a line of go test -json, see go doc test2json.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build output
	Test        string
	Output      string
	FailedBuild string
}

// report prints the run that r tells of and gives the tests that were skipped.
func report(w io.Writer, r io.Reader) (skipped []string, failed bool) {
	type key struct{ pkg, test string }
	output := map[key][]string{} // of tests that have not ended
	print := func(k key) {
		for _, s := range output[k] {
			fmt.Fprint(w, s)
		}
		delete(output, k)
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(w, lines.Text())
			continue
		}
		k := key{e.Package, e.Test}
		switch e.Action {
		case "output":
			output[k] = append(output[k], e.Output)
		case "build-output":
			fmt.Fprint(w, e.Output)
		case "build-fail":
			failed = true
		case "skip":
			if e.Test != "" {
				reason := strings.TrimSpace(strings.Join(output[k], ""))
				skipped = append(skipped, e.Package+"."+e.Test+": "+reason)
				delete(output, k)
				break
			}
			print(k) // a package without tests
		case "fail":
			failed = true
			print(k)
		case "pass":
			if e.Test == "" {
				passed := output[k]
				for i, s := range passed { // PASS is noise, ok … is the line wanted
					if s == "PASS\n" {
						passed[i] = ""
					}
				}
				print(k)
				break
			}
			delete(output, k)
		}
	}
	for k := range output { // a run that was cut short
		print(k)
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(w, "gotest: read the output of go test:", err)
		failed = true
	}
	return skipped, failed
}
