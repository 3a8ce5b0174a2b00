// Package chaos is a proof by violence: it runs the real binary on a real disk, kills it under load
// again and again, and checks that everything that was acknowledged is there, once and in order, and
// that what was ended stays ended.
//
//	go test ./proof/chaos -rounds 50
package chaos
