// Package client is the Go SDK of Runnel: one type, [Client], over a log in the same process ([New]) or
// over one WebSocket to a server ([Dial]). Operations, results, order and errors are the same on both.
//
// A Client has every method of [runnel.Log], which it embeds, and more that are made of these:
//
//	write      Publish, Produce, ProduceAt, Producer
//	read       Consume, Tail, Reader
//	watch      WatchSegment, WatchSpace
//	items      ItemsIn, ItemStreams
//	coordinate WithLease, Join, Workers
//
// # Who owns bytes
//
// Records are the caller's again when a call returns, on both transports. Entries may share their payload
// and metadata with other readers in the same process: they may be kept, and must not be changed.
//
// # What happens when the connection is lost
//
// Reads, tails and watches go on by themselves from the last entry that was handed over: nothing is
// missed, nothing comes twice. A write is sent again if the server can tell that it is the same write, or
// if it has not been sent yet; otherwise it fails with [runnel.ErrUnknown].
package client

import (
	"github.com/runnelhq/runnel"
)

// Client is a log, in this process or on a server. All methods may be called concurrently.
type Client struct {
	runnel.Log
	close func() error
}

// New returns a client of a log in this process, such as an engine. The log stays the caller's, who
// closes it.
func New(log runnel.Log) *Client {
	return &Client{Log: log, close: func() error { return nil }}
}

// Close ends the connection, if there is one: what is under way fails with runnel.ErrShutdown. The log of
// New is left as it is.
func (c *Client) Close() error { return c.close() }
