package engine

// distinct finds what comes twice. The zero value has seen nothing. Most of what it looks at is one thing,
// for which it needs no memory.
type distinct[T comparable] struct {
	first T
	some  bool
	rest  map[T]struct{}
}

// add tells whether x has not been seen before.
func (d *distinct[T]) add(x T) bool {
	switch _, seen := d.rest[x]; {
	case !d.some:
		d.first, d.some = x, true
		return true
	case seen || x == d.first:
		return false
	case d.rest == nil:
		d.rest = make(map[T]struct{})
	}
	d.rest[x] = struct{}{}
	return true
}
