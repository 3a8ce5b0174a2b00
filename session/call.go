package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/session/internal/pb"
)

// again says what becomes of an operation whose answer was lost.
type again int

const (
	// asIs: it is asked again, and the answer is that of the last time.
	asIs again = iota
	// never: nobody knows whether it happened.
	never
	// ifNotMoved: it is asked again, and if it is then refused because the tail or a cursor has moved, nobody
	// knows by whom.
	ifNotMoved
)

// call does an operation with one response.
func (c *Client) call(ctx context.Context, retry again, req *pb.Request) (_ *pb.Response, err error) {
	op := &Operation{Name: operationName(req), Carrier: map[string]string{}}
	ctx, end := c.cfg.Observe.begin(ctx, op)
	defer func() { end(err) }()
	req.Carrier = op.Carrier
	p := c.newPatience(false)
	doubt := false // an earlier attempt may have happened
	var last error
	for {
		l, err := c.connect(ctx, p)
		if err != nil {
			if doubt {
				err = unknown(err)
			}
			return nil, err
		}
		resp, sent, err := c.exchange(ctx, l, req)
		switch content := resp.GetContent().(type) {
		case nil:
			if err == nil {
				return nil, malformed("the response to %s is empty", op.Name)
			}
			doubt = doubt || sent && retry != asIs
			last = err
		case *pb.Response_ComeBack:
			c.away(l)
			last = errors.New("the server goes away")
		case *pb.Response_Error:
			err := getError(content.Error)
			if errors.Is(err, runnel.ErrUnauthorized) && c.renewed(ctx, l) {
				continue
			}
			if doubt && (errors.Is(err, runnel.ErrTailMoved) || errors.Is(err, runnel.ErrCursorMoved)) {
				err = unknown(err)
			}
			return nil, err
		default:
			return resp, nil
		}
		if cerr := ctx.Err(); cerr != nil {
			if doubt {
				cerr = unknown(cerr)
			}
			return nil, cerr
		}
		if doubt && retry == never {
			return nil, unknown(last)
		}
		if errors.Is(last, runnel.ErrInvalid) {
			return nil, last // what was to be sent, or what came, is no message
		}
		if err := p.over(last); err != nil {
			if doubt {
				err = unknown(err)
			}
			return nil, err
		}
	}
}

// unknown says that an operation may have happened.
func unknown(err error) error { return fmt.Errorf("%w: %w", runnel.ErrUnknown, err) }

// exchange asks, and returns the answer. sent is true if the server may have got the request.
func (c *Client) exchange(ctx context.Context, l *link, req *pb.Request) (resp *pb.Response, sent bool, err error) {
	ch, err := l.take()
	if err != nil {
		c.lost(l, err)
		return nil, false, err
	}
	stop := ch.until(ctx)
	req.TimeoutNanos = timeout(ctx)
	if sent, err = ch.ask(req); err == nil {
		resp, err = ch.answer()
	}
	if !stop() || err != nil {
		l.drop(ch)
	} else {
		l.give(ch)
		c.worked(l)
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, runnel.ErrInvalid) {
		c.lost(l, err)
	}
	return resp, sent, err
}

// timeout is what is left of a context's time, 0 if that has no end.
func timeout(ctx context.Context) int64 {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(int64(time.Until(deadline)), 1)
}

// renewed tells whether the caller has another token than the one that a connection was opened with. The
// connection then takes no more operations.
func (c *Client) renewed(ctx context.Context, l *link) bool {
	if c.cfg.Token == nil {
		return false
	}
	token, err := c.cfg.Token(ctx)
	if err != nil || token == l.token {
		return false
	}
	l.retire()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == l {
		c.current = nil
	}
	return true
}

// flow is an operation with many responses that can be gone on with over another connection.
type flow struct {
	// endless says that it goes on until its consumer wants no more: then it waits for the server for as
	// long as that takes.
	endless bool
	// request is what to ask for next, nil when there is nothing left.
	request func() (*pb.Request, error)
	// take takes a response, and returns false when no more is wanted.
	take func(*pb.Response) (more bool, err error)
}

// stream does an operation with many responses.
func (c *Client) stream(ctx context.Context, f flow) (err error) {
	first, err := f.request()
	if err != nil || first == nil {
		return err
	}
	op := &Operation{Name: operationName(first), Carrier: map[string]string{}}
	ctx, end := c.cfg.Observe.begin(ctx, op)
	defer func() { end(err) }()
	p := c.newPatience(false)
	for {
		req, err := f.request()
		if err != nil || req == nil {
			return err
		}
		req.Carrier = op.Carrier
		l, err := c.connect(ctx, p)
		if err != nil {
			return err
		}
		done, err := c.follow(ctx, l, req, f, p)
		if done {
			return err
		}
		if cerr := ctx.Err(); cerr != nil {
			return cerr
		}
		if err := p.over(err); err != nil {
			return err
		}
	}
}

// follow takes the responses that come over one connection. done is false if there may be more over
// another one.
func (c *Client) follow(ctx context.Context, l *link, req *pb.Request, f flow, p *patience) (done bool, err error) {
	ch, err := l.take()
	if err != nil {
		c.lost(l, err)
		return false, err
	}
	stop := ch.until(ctx)
	finished := false
	defer func() {
		if stop() && finished {
			l.give(ch)
		} else {
			l.drop(ch)
		}
	}()
	req.TimeoutNanos = timeout(ctx)
	if _, err := ch.ask(req); err != nil {
		return c.broken(ctx, l, err)
	}
	for first := true; ; first = false {
		resp, err := ch.answer()
		if err != nil {
			return c.broken(ctx, l, err)
		}
		switch content := resp.GetContent().(type) {
		case *pb.Response_End:
			finished = true
			return true, nil
		case *pb.Response_ComeBack:
			finished = true
			c.away(l)
			return false, errors.New("the server goes away")
		case *pb.Response_Error:
			finished = true
			err := getError(content.Error)
			if errors.Is(err, runnel.ErrUnauthorized) && c.renewed(ctx, l) {
				return false, err
			}
			return true, err
		}
		if first {
			c.worked(l)
			if f.endless {
				p.endless()
			}
		}
		p.progress()
		if more, err := f.take(resp); !more || err != nil {
			return true, err
		}
		if cerr := ctx.Err(); cerr != nil {
			return true, cerr
		}
	}
}

// broken is what follows when a connection breaks under an operation.
func (c *Client) broken(ctx context.Context, l *link, err error) (done bool, _ error) {
	if cerr := ctx.Err(); cerr != nil {
		return true, cerr
	}
	if errors.Is(err, runnel.ErrInvalid) {
		return true, err
	}
	c.lost(l, err)
	return false, err
}
