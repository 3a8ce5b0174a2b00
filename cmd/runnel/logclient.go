package main

import (
	"context"
	"log/slog"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
	"github.com/runnelhq/runnel/session"
)

// dial connects the Go SDK to the server. A server that cannot be reached is an error at once; a connection
// that is lost later is opened again, and the user told.
func (r remote) dial(ctx context.Context, std stdio) (*client.Client, error) {
	address, err := r.session()
	if err != nil {
		return nil, err
	}
	header, err := r.header()
	if err != nil {
		return nil, err
	}
	dialing, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	link := &linkNotes{std: std, first: giveUp}
	c, err := client.Dial(dialing, address, client.Config{Header: header, Logger: slog.New(link)})
	if cause := context.Cause(dialing); err != nil && cause != nil && ctx.Err() == nil {
		err = cause
	}
	if err != nil {
		return nil, err
	}
	link.connected.Store(true)
	return c, nil
}

// session is the address of the session that belongs to the URL of the streams.
func (r remote) session() (string, error) {
	u, err := url.Parse(r.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", usagef("url must be an http or https URL such as %s, got %q", defaultURL, r.URL)
	}
	if u.RawQuery != "" || u.ForceQuery {
		return "", usagef("url must not have a query, got %q", r.URL)
	}
	path := strings.TrimSuffix(u.Path, "/")
	if !strings.HasSuffix(path, session.Path) {
		path = strings.TrimSuffix(path, "/v1/stream") + session.Path
	}
	u.Path = path
	return u.String(), nil
}

// linkNotes tells the user what becomes of the connection.
type linkNotes struct {
	std       stdio
	first     context.CancelCauseFunc // is told why the first attempt failed
	connected atomic.Bool
}

func (n *linkNotes) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (n *linkNotes) Handle(_ context.Context, r slog.Record) error {
	var why error
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			why = err
		}
		return true
	})
	if !n.connected.Load() {
		n.first(why)
		return nil
	}
	n.std.note("%s: %v; trying again", r.Message, why)
	return nil
}

func (n *linkNotes) WithAttrs([]slog.Attr) slog.Handler { return n }
func (n *linkNotes) WithGroup(string) slog.Handler      { return n }

// segment is the segment of a name on the command line.
func (r remote) segment(name string) (runnel.Segment, error) {
	if err := refuseURL(name); err != nil {
		return runnel.Segment{}, err
	}
	store, err := r.store()
	if err != nil {
		return runnel.Segment{}, err
	}
	segment, err := runnel.ParsePath(store, name)
	if err != nil {
		return segment, &usageError{err}
	}
	return segment, nil
}

// space is the space of a name on the command line, where a slash stands for the root space.
func (r remote) space(name string) (runnel.Space, error) {
	if err := refuseURL(name); err != nil {
		return runnel.Space{}, err
	}
	if name == "" { // as an unset variable is
		return runnel.Space{}, usagef("the name of a space must not be empty; a slash is the root space")
	}
	store, err := r.store()
	if err != nil {
		return runnel.Space{}, err
	}
	space := runnel.Space{Store: store, Name: strings.TrimSuffix(name, "/")}
	if err := space.Validate(); err != nil {
		return space, &usageError{err}
	}
	return space, nil
}

// source is a segment, or the timeline of a space, of a name on the command line.
func (r remote) source(name string, isSpace bool) (runnel.Source, error) {
	if isSpace {
		space, err := r.space(name)
		return runnel.Source{Space: space}, err
	}
	segment, err := r.segment(name)
	return runnel.Source{Space: segment.In(), Segment: segment.Name}, err
}

func refuseURL(name string) error {
	if strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://") {
		return usagef("this takes names, not URLs, got %q; the server is set with --url", name)
	}
	return nil
}
