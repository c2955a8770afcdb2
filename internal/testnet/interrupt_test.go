//go:build unix

package testnet_test

import (
	"bytes"
	"io"
	"os/exec"
	"syscall"
	"testing"
)

// interrupted starts a command that reads stdin, feeds it until it reads no
// more than it was sent, and sends SIGINT.
func interrupted(t *testing.T, cmd *exec.Cmd) (code int, out string) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// A pipe holds 64 KiB: when this returns, the command is reading.
	if _, err := io.Copy(stdin, random(34, 2<<20)); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	return cmd.ProcessState.ExitCode(), stdout.String()
}
