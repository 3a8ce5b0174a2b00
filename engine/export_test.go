package engine

// SetMaxChanged sets how many changed segments are remembered for a watcher, until the function it
// returns is called.
func SetMaxChanged(n int) (restore func()) {
	was := maxChanged
	maxChanged = n
	return func() { maxChanged = was }
}
