package dsclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// Reader is what a stream held, from a place up to its tail.
type Reader struct {
	pages *pages
	stop  context.CancelFunc
}

// Read begins to read a stream from a place. It ends with io.EOF when it is up to date: what is appended
// during the read may or may not be part of it. ctx holds for the whole read. The first request is not
// repeated if it fails; once there was an answer, requests are repeated until ctx ends.
//
// The bytes of a JSON stream are one or more JSON arrays, one after the other; Messages takes them apart.
func (c *Client) Read(ctx context.Context, stream string, from Offset) (*Reader, error) {
	if from == "" {
		from = Start
	}
	ctx, stop := context.WithCancel(ctx)
	p := &pages{client: c, stream: stream, next: from, at: from}
	p.get = func(from Offset) (*http.Response, error) {
		return c.do(ctx, request{method: http.MethodGet, stream: stream, query: url.Values{wire.QueryOffset: {string(from)}}})
	}
	p.pause = func(failures int, err error) error {
		if !temporary(ctx, err) {
			return err
		}
		return pause(ctx, c.Backoff.after(failures, err))
	}
	if err := p.openOnce(); err != nil {
		stop()
		return nil, err
	}
	return &Reader{pages: p, stop: stop}, nil
}

// Read returns the next bytes. It blocks while a broken connection is made anew.
func (r *Reader) Read(b []byte) (int, error) { return r.pages.Read(b) }

// Messages yields the messages of a JSON stream. A message is valid until the next step. Use either
// Messages or Read.
func (r *Reader) Messages() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		s := newSplitter(r)
		for {
			message, err := s.next()
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(message, err) || err != nil {
				return
			}
		}
	}
}

// ContentType is the stream's.
func (r *Reader) ContentType() string { return r.pages.contentType }

// Offset is the place up to which all data has been returned by Read: after io.EOF, where to read on.
func (r *Reader) Offset() Offset { return r.pages.at }

// Closed says, after io.EOF, that the stream is closed and nothing will follow.
func (r *Reader) Closed() bool { return r.pages.closed }

// Close ends the read.
func (r *Reader) Close() error {
	r.stop()
	return r.pages.close()
}

// pages reads one page after the other, and each page over as many connections as it takes.
type pages struct {
	client *Client
	stream string
	get    func(from Offset) (*http.Response, error)
	pause  func(failures int, err error) error

	at    Offset // everything before it has been returned
	page  io.ReadCloser
	body  io.Reader // of the page, as far as it has not been returned
	got   int64     // bytes of the page that have been returned
	from  string    // what the server keeps of the stream, as it said with the page
	whole bool      // the page is the state of the stream, which cannot be taken up in the middle
	end   arrayEnd  // of a page that is JSON
	next  Offset    // what follows the page

	// id is what the server's ETag says about which stream this is, apart from others of its name before
	// or after it.
	id          string
	contentType string
	json        bool
	upToDate    bool
	closed      bool
	failures    int
	err         error
}

// open asks for the page after at and skips what was already returned of it.
func (p *pages) open() error {
	for {
		err := p.openOnce()
		if err == nil {
			return nil
		}
		p.failures++
		if err := p.pause(p.failures, err); err != nil {
			return err
		}
	}
}

func (p *pages) openOnce() error {
	resp, err := p.get(p.at)
	if err != nil {
		return err
	}
	if err := sameStream(&p.id, resp.Header); err != nil {
		_ = resp.Body.Close()
		return err
	}
	if err := p.sameBeginning(resp.Header); err != nil {
		_ = resp.Body.Close()
		return err
	}
	if err := p.takeUp(resp.Body); err != nil {
		_ = resp.Body.Close()
		return fmt.Errorf("dsclient: take up the page at byte %d: %w", p.got, err)
	}
	p.page = resp.Body
	p.next = Offset(resp.Header.Get(wire.HeaderNextOffset))
	p.contentType = resp.Header.Get(wire.HeaderContentType)
	p.json = runnel.IsJSON(p.contentType)
	p.closed = isTrue(resp.Header, wire.HeaderClosed)
	// A server that gives no way forward has no more to give.
	p.upToDate = p.closed || isTrue(resp.Header, wire.HeaderUpToDate) || p.next == "" || p.next == p.at
	return nil
}

// sameBeginning returns an error if a page from the start of the stream, a part of which was returned, now
// begins elsewhere because retention has cut the stream, or is or was its state, of which no two are alike.
func (p *pages) sameBeginning(h http.Header) error {
	was, whole := p.from, p.whole
	p.from, p.whole = h.Get(wire.HeaderEarliestOffset), isTrue(h, wire.HeaderState)
	if p.got > 0 && (p.whole || whole) {
		return &finalError{fmt.Errorf("dsclient: the connection was lost while the state of the stream was read; read it again from its start: %w", runnel.ErrTrimmed)}
	}
	if p.got > 0 && p.at == Start && p.from != was {
		return &finalError{fmt.Errorf("dsclient: the stream was cut while it was read from its start; it now begins at %s: %w", p.from, runnel.ErrTrimmed)}
	}
	return nil
}

// takeUp skips what was returned of a page. Data at an offset never changes, so a page that is asked for
// again begins with the same bytes.
func (p *pages) takeUp(page io.Reader) (err error) {
	if p.end.ended {
		if p.body, p.got, err = p.end.goOn(page); err == nil {
			p.end = arrayEnd{at: p.got}
		}
		return err
	}
	p.body = page
	_, err = io.CopyN(io.Discard, page, p.got)
	return err
}

// sameStream returns an error if the header of an answer names another stream than id, which the first
// answer that names one sets.
func sameStream(id *string, h http.Header) error {
	is := streamID(h)
	if *id != "" && is != "" && is != *id {
		return &finalError{fmt.Errorf("dsclient: the stream was replaced by another one of its name: %w", runnel.ErrNotFound)}
	}
	if is != "" {
		*id = is
	}
	return nil
}

// streamID returns the first part of an ETag, which names this incarnation of the stream. Source: PROTOCOL.md, section 5.6.
func streamID(h http.Header) string {
	tag := strings.Trim(strings.TrimPrefix(h.Get(wire.HeaderETag), "W/"), `"`)
	if id, places, ok := strings.Cut(tag, ":"); ok && strings.Contains(places, ":") {
		return id
	}
	return ""
}

func (p *pages) Read(b []byte) (int, error) {
	for p.err == nil {
		if p.page == nil {
			if p.err = p.open(); p.err != nil {
				break
			}
		}
		n, err := p.body.Read(b)
		p.got += int64(n)
		if p.json {
			p.end.look(b[:n])
		}
		switch {
		case errors.Is(err, io.EOF):
			p.endPage()
		case err != nil:
			_ = p.page.Close()
			p.page = nil
			p.failures++
			p.err = p.pause(p.failures, err)
		case n > 0:
			p.failures = 0
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, p.err
}

func (p *pages) endPage() {
	drain(p.page)
	p.page, p.body, p.got, p.end = nil, nil, 0, arrayEnd{}
	if p.next != "" {
		p.at = p.next
	}
	if p.upToDate {
		p.err = io.EOF
	}
}

func (p *pages) close() error {
	if p.err == nil {
		p.err = errors.New("dsclient: the reader is closed")
	}
	if p.page == nil {
		return nil
	}
	err := p.page.Close()
	p.page = nil
	return err
}
