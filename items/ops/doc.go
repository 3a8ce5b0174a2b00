// Package ops changes a JSON value by a list of operations: set, merge, increment, decrement, append and
// remove. It works on bytes: what no operation reaches stays byte for byte what it was, so the order of
// keys is kept and no number is ever rounded.
//
// An operation names its target by a path from the root of the value. A string is one key, and the empty
// string is the root; an array of strings goes down, key by key. Dots are not special, and elements of
// arrays cannot be named.
//
// [Parse] reads a list and refuses what is no list of operations. [Apply] carries it out, in order.
// An operation that fails changes nothing and does not stop those after it, unless the list is
// to be applied as a whole or not at all. The functions are pure: they keep and change none of their
// arguments.
package ops
