package client

import (
	"context"

	"github.com/runnelhq/runnel/session"
)

// Config tunes the connection of a Client. The zero Config is right for most programs.
type Config = session.ClientConfig

// Dial returns a client of a server, over one WebSocket: of "http://127.0.0.1:4437" for example, or of
// "wss://log.example/v1/session". It returns when there is a connection, or when there will be none: after
// the first refusal, after the Patience, or when the context ends. The context has no meaning afterwards.
func Dial(ctx context.Context, url string, cfg Config) (*Client, error) {
	log, err := session.Dial(ctx, url, cfg)
	if err != nil {
		return nil, err
	}
	return &Client{Log: log, close: log.Close}, nil
}
