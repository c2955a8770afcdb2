//go:build unix && !linux

package testnet

import (
	"os/exec"
	"syscall"
)

// ownedByUs keeps signals of the terminal from cmd; it ends when the test
// cleans up.
func ownedByUs(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}
