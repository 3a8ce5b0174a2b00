//go:build unix

package chaos

import (
	"os"
	"syscall"
)

// The signals that stop a process and let it go on; nil where there are none.
var sigStop, sigContinue os.Signal = syscall.SIGSTOP, syscall.SIGCONT
