// Package engine is the log: every rule of it, once.
package engine
