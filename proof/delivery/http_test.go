package delivery

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/wire"
)

// root is the URL below which the streams are; the network decides where that leads.
const root = "http://server/v1/stream"

// get sends a request for what follows the place of the reader.
func (rd *reader) get(ctx context.Context, live string) (*http.Response, error) {
	query := url.Values{wire.QueryOffset: {rd.token}}
	if live != "" {
		query.Set(wire.QueryLive, live)
	}
	if rd.cursor != "" {
		query.Set(wire.QueryCursor, rd.cursor)
	}
	if rd.fromID {
		query.Set(wire.QueryOffset, "-1") // which the id goes before
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, root+"/"+rd.stream.name+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set(headerMark, rd.name)
	if rd.fromID {
		req.Header.Set(wire.HeaderLastEventID, rd.token)
	}
	return rd.http.Do(req)
}

// told turns an answer that is a refusal into an error, and closes its body.
func told(resp *http.Response) error {
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	defer resp.Body.Close()
	var body wire.Body
	content, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("%w: %w", errRetry, err)
	}
	if err := json.Unmarshal(content, &body); err != nil {
		return violated(protocol, "%d without a JSON body: %.100q", resp.StatusCode, content)
	}
	if got := resp.Header.Get(wire.HeaderEarliestOffset); got != body.Error.EarliestOffset {
		return violated(exactCut, "%d: the header says %q, the body %q", resp.StatusCode, got, body.Error.EarliestOffset)
	}
	return &dsclient.Error{Status: resp.StatusCode, Detail: body.Error, Method: http.MethodGet, URL: resp.Request.URL.String()}
}

// incarnation is the part of an ETag that names the life of a stream. Source: PROTOCOL.md, section 5.6.
func incarnation(h http.Header) string {
	id, _, _ := strings.Cut(strings.Trim(strings.TrimPrefix(h.Get(wire.HeaderETag), "W/"), `"`), ":")
	return id
}

func yes(h http.Header, name string) bool { return h.Get(name) == "true" }

// catchUp reads what there is.
func catchUp(rd *reader) func(context.Context) error {
	return func(ctx context.Context) error {
		err := rd.once(ctx, "")
		if err == nil {
			pause(ctx, time.Duration(rd.r.IntN(30))*time.Millisecond)
		}
		return err
	}
}

// longPoll reads what there is, or waits for it.
func longPoll(rd *reader) func(context.Context) error {
	return func(ctx context.Context) error {
		if rd.at == unknown {
			return rd.once(ctx, "") // so that it is known where the first data begins
		}
		return rd.once(ctx, wire.LiveLongPoll)
	}
}

// once makes one request for data up to the tail.
func (rd *reader) once(ctx context.Context, live string) error {
	a := rd.begin()
	resp, err := rd.get(ctx, live)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := told(resp); err != nil {
		return a.refused(err)
	}
	h := resp.Header
	if other, err := a.tagged(incarnation(h)); other || err != nil {
		return err
	}
	if !yes(h, wire.HeaderUpToDate) {
		return violated(upToDate, "%d without %s", resp.StatusCode, wire.HeaderUpToDate)
	}
	if live != "" {
		if err := rd.echo(h.Get(wire.HeaderCursor), yes(h, wire.HeaderClosed)); err != nil {
			return err
		}
	}
	if resp.StatusCode == http.StatusOK {
		if ct := h.Get(wire.HeaderContentType); ct != rd.stream.kind.contentType() {
			return violated(protocol, "the content type is %q", ct)
		}
		err = a.body(resp.Body)
	}
	if err != nil {
		return rd.broken(err, a.during)
	}
	if err := a.arrive(h.Get(wire.HeaderNextOffset), true); err != nil {
		return err
	}
	rd.cached(a.at > rd.at)
	if a.at > rd.at {
		rd.note("%s: %d to %d", live, rd.at, a.at)
		rd.run.cover.hit(map[string]string{"": "a catch-up brought data", wire.LiveLongPoll: "a long-poll brought data"}[live])
	} else if live != "" && !yes(h, wire.HeaderClosed) {
		rd.run.cover.hit("a long-poll ended without data")
	}
	a.keep(true)
	if yes(h, wire.HeaderClosed) {
		return a.end()
	}
	return nil
}

// echo takes a cursor, which is to be sent back, and has to grow.
func (rd *reader) echo(cursor string, closed bool) error {
	if cursor == "" {
		if !closed {
			return violated(protocol, "an answer without a cursor")
		}
		return nil
	}
	now, err := strconv.ParseUint(cursor, 10, 64)
	was, _ := strconv.ParseUint(rd.cursor, 10, 64)
	if err != nil || now <= was {
		return violated(protocol, "the cursor %q follows %q", cursor, rd.cursor)
	}
	rd.cursor = cursor
	return nil
}

// body takes the data of a response.
func (a *attempt) body(body io.Reader) error {
	s := scanner{kind: a.stream.kind}
	buf := make([]byte, 32<<10)
	for {
		n, err := body.Read(buf)
		if ferr := s.feed(buf[:n], a.entry); ferr != nil {
			return torn(ferr)
		}
		switch {
		case errors.Is(err, io.EOF):
			return torn(s.end())
		case err != nil:
			if a.at > a.reader.at || s.pending() > 0 {
				a.run.cover.hit("a response was cut and asked for again")
			}
			return err
		}
	}
}

func torn(err error) error {
	if errors.Is(err, errTorn) {
		return violated(noTorn, "%v", err)
	}
	return err
}

// broken looks at why a response has ended before its end.
func (rd *reader) broken(err error, during int64) error {
	if _, ok := errors.AsType[*violation](err); ok {
		return err
	}
	c := rd.network.last.Load()
	if c != nil && !c.wasCut.Load() && rd.run.server.generation.Load() == during && rd.run.ctx.Err() == nil && c.stalls.Load() > 0 {
		rd.run.cover.hit("a slow reader was dropped by the server")
	}
	return fmt.Errorf("%w: %w", errRetry, err)
}

// serverSent follows with server-sent events. EventSource goes on with the id of the last event, all
// others with the offset.
func serverSent(rd *reader, eventSource bool) func(context.Context) error {
	return func(ctx context.Context) error {
		a := rd.begin()
		rd.fromID = eventSource && rd.at > 0
		resp, err := rd.get(ctx, wire.LiveSSE)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if err := told(resp); err != nil {
			return a.refused(err)
		}
		h := resp.Header
		if other, err := a.tagged(incarnation(h)); other || err != nil {
			return err
		}
		if ct := h.Get(wire.HeaderContentType); ct != "text/event-stream" {
			return violated(protocol, "the content type is %q", ct)
		}
		if encoded := h.Get(wire.HeaderSSEDataEncoding) == "base64"; encoded != (rd.stream.kind == binary) {
			return violated(protocol, "base64 is %t", encoded)
		}
		if rd.at == unknown {
			if err := a.arrive(h.Get(wire.HeaderNextOffset), yes(h, wire.HeaderUpToDate)); err != nil {
				return err
			}
			a.keep(false)
		}
		return rd.events(&events{a: a}, resp.Body)
	}
}

// events reads a response to its end.
func (rd *reader) events(ev *events, body io.Reader) error {
	buf := make([]byte, 16<<10)
	network := rd.network.last.Load()
	for {
		stalls := network.stalls.Load()
		n, err := body.Read(buf)
		if network.stalls.Load() > stalls && len(ev.buf) > 0 {
			rd.run.cover.hit("stalled in a frame")
		}
		if verr := ev.feed(buf[:n]); verr != nil {
			return torn(verr)
		}
		switch {
		case errors.Is(err, io.EOF) && (len(ev.buf) > 0 || ev.data):
			return violated(protocol, "a response ends properly, and inside an event: %.80q", ev.buf)
		case errors.Is(err, io.EOF) && ev.closed:
			return ev.a.end()
		case errors.Is(err, io.EOF) && !ev.begun:
			return fmt.Errorf("%w: a response without an event", errRetry)
		case errors.Is(err, io.EOF):
			rd.run.cover.hit("an SSE response was ended by the server, and another one asked for")
			return nil
		case err != nil && ev.closed:
			return ev.a.end() // everything has come
		case err != nil:
			if ev.begun {
				rd.run.cover.hit("an SSE connection was lost, and another one asked for")
			}
			return rd.broken(err, ev.a.during)
		}
	}
}

// events takes server-sent events apart, as this server writes them: lines end with LF.
type events struct {
	a        *attempt
	buf      []byte
	searched int
	begun    bool
	data     bool // there was a data event without its control event
	closed   bool
}

func (ev *events) feed(p []byte) error {
	ev.buf = append(ev.buf, p...)
	at := 0
	for {
		i := bytes.Index(ev.buf[max(at, ev.searched):], []byte("\n\n"))
		if i < 0 {
			break
		}
		end := max(at, ev.searched) + i
		if err := ev.block(ev.buf[at:end]); err != nil {
			return err
		}
		at = end + 2
		ev.searched = at
	}
	ev.buf = append(ev.buf[:0], ev.buf[at:]...)
	ev.searched = max(0, len(ev.buf)-1)
	return nil
}

func (ev *events) block(b []byte) error {
	if ev.closed {
		return violated(closedOnce, "after the end of the stream comes %.80q", b)
	}
	var name, id string
	var data []byte
	lines := 0
	for line := range bytes.SplitSeq(b, []byte{'\n'}) {
		field, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch string(field) {
		case "event":
			name = string(value)
		case "data":
			if lines++; lines > 1 {
				data = append(data, '\n')
			}
			data = append(data, value...)
		case "id":
			id = string(value)
		case "":
			ev.a.run.cover.hit("a heartbeat came")
		default:
			return violated(protocol, "the field %.80q", line)
		}
	}
	switch name {
	case wire.EventData:
		return ev.dataEvent(data)
	case wire.EventControl:
		return ev.control(data, id)
	case "":
		return nil
	}
	return violated(protocol, "the event %q", name)
}

func (ev *events) dataEvent(data []byte) error {
	if ev.data {
		return violated(protocol, "a data event follows another without a control event")
	}
	ev.begun, ev.data = true, true
	if ev.a.stream.kind == binary {
		plain, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(string(data), "\n", ""))
		if err != nil {
			return violated(noTorn, "%v", err)
		}
		data = plain
	}
	s := scanner{kind: ev.a.stream.kind}
	if err := s.feed(data, ev.a.entry); err != nil {
		return err
	}
	return s.end()
}

func (ev *events) control(data []byte, id string) error {
	var c struct {
		StreamNextOffset string
		StreamCursor     string
		UpToDate         bool
		StreamClosed     bool
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return violated(protocol, "control event %q: %v", data, err)
	}
	if strings.TrimSuffix(id, ":closed") != c.StreamNextOffset || strings.HasSuffix(id, ":closed") != c.StreamClosed {
		return violated(protocol, "the id %q of %s", id, data)
	}
	if !ev.data && ev.begun && !c.StreamClosed {
		return violated(protocol, "a control event without data: %s", data)
	}
	if c.StreamCursor == "" && !c.StreamClosed {
		return violated(protocol, "no cursor in %s", data)
	}
	rd := ev.a.reader
	before := rd.at
	if err := ev.a.arrive(c.StreamNextOffset, c.UpToDate); err != nil {
		return err
	}
	if ev.data {
		rd.run.cover.hit("an SSE event brought data")
		if c.UpToDate || before == 0 {
			rd.note("event: %d to %d, up to date %t", before, ev.a.at, c.UpToDate)
		}
	}
	rd.cursor = c.StreamCursor
	ev.begun, ev.data, ev.closed = true, false, c.StreamClosed
	ev.a.keep(c.UpToDate || c.StreamClosed)
	return nil
}
