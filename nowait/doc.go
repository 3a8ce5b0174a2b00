// Package nowait writes to connections without ever waiting for them, so that one goroutine can serve many
// readers and none of them holds up another.
package nowait
