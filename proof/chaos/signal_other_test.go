//go:build !unix

package chaos

import "os"

// The signals that stop a process and let it go on; nil where there are none.
var sigStop, sigContinue os.Signal
