package testnet

import (
	"os/exec"
	"syscall"
)

// ownedByUs lets the kernel kill cmd when this process dies, be it by a
// timeout's panic, so that no test leaves nodes behind.
func ownedByUs(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
