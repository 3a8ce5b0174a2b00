//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// feed is a way from one writer to many readers.
type feed struct {
	prefix string // of the names of its rows
	reads  string // what the readers are called,
	writes string // and what is written
	frames []string
	// open starts a server with so many readers, and connects the writer.
	open func(m *machine, ctx context.Context, n int) (*process, *readers, *conn, error)
	// join opens more readers.
	join func(addr string, n int) (*readers, error)
	// write writes what all readers are told of, and names the number n in it.
	write func(writer *conn, n int) error
}

var (
	streamFeed = feed{
		reads: "readers", writes: "appends", open: (*machine).subscribed, write: publish,
		join: func(addr string, n int) (*readers, error) { return subscribe(addr, streamPath("live-0")+live, n) },
	}
	itemFeed = feed{
		prefix: "items/", reads: "subscribers", writes: "changes", frames: []string{"items"}, open: (*machine).subscribedItems, write: setOne,
		join: func(addr string, n int) (*readers, error) { return joined(addr, "live", n) },
	}
)

const fanOutReaders = 1000

// aheadRow is a row of a writer that is so many writes ahead of the readers.
type aheadRow struct {
	name   string
	ahead  int
	target float64
}

// feedTurns is how often a feed and its limit are measured, in turns. It is odd, so that there is a median.
const feedTurns = 3

// fanOut measures how fast writes reach 1,000 readers, in turns with the limit. With a writer that waits until
// all have the last one, each delivery is a write to a socket of its own.
func (f feed) fanOut(rows ...aheadRow) func(context.Context, *machine) ([]result, error) {
	return func(ctx context.Context, m *machine) ([]result, error) {
		var limits []loadResult
		rates := make([][]loadResult, len(rows))
		for range feedTurns {
			limit, err := f.bare(ctx, m)
			if err != nil {
				return nil, err
			}
			limits = append(limits, limit)
			for i, row := range rows {
				rate, err := f.ahead(ctx, m, row.ahead)
				if err != nil {
					return nil, err
				}
				rates[i] = append(rates[i], rate)
			}
		}
		limit := medians(limits)
		var results []result
		for i, row := range rows {
			rate := medians(rates[i])
			results = append(results, result{
				Name: f.prefix + row.name, Value: rate.perSecond, Unit: "/s", Limit: limit.perSecond, LimitName: "bare write loop", Target: row.target,
				GeneratorCPU: rate.cpu, LimitCPU: limit.cpu, Note: number(rate.perSecond/fanOutReaders) + " " + f.writes + "/s",
			})
		}
		return results, nil
	}
}

// bare returns the deliveries in a second of a loop that writes the feed's frames to 1,000 sockets.
func (f feed) bare(ctx context.Context, m *machine) (loadResult, error) {
	peer, err := m.peer("frames", append([]string{strconv.Itoa(fanOutReaders)}, f.frames...)...)
	if err != nil {
		return loadResult{}, err
	}
	defer m.stopAll()
	rs, err := subscribe(peer.addr, "/", fanOutReaders)
	if err != nil {
		return loadResult{}, err
	}
	defer rs.close()
	rs.start(nil)
	return rs.rate(ctx, m.opts.duration/feedTurns, func(int) error { return rs.await(ctx, rs.delivered.Load()+1) })
}

// ahead returns the deliveries in a second with a writer that is so many writes ahead of the readers.
func (f feed) ahead(ctx context.Context, m *machine, ahead int) (loadResult, error) {
	_, rs, writer, err := f.open(m, ctx, fanOutReaders)
	if err != nil {
		return loadResult{}, err
	}
	defer m.stopAll()
	defer writer.hangUp()
	defer rs.close()
	rs.start(nil)
	return rs.rate(ctx, m.opts.duration/feedTurns, func(n int) error {
		if err := rs.await(ctx, int64(n-ahead)*fanOutReaders); err != nil {
			return err
		}
		return f.write(writer, n)
	})
}

// pacePerSecond is how often a paced writer writes.
const pacePerSecond = 50

// paced is a writer at a steady pace, and how long each write took to each reader, in two passes, one after the
// other.
type paced struct {
	feed   feed
	rs     *readers
	writer *conn
	epoch  time.Time
	writes int // of a pass
	sent   []atomic.Int64
	took   [][]time.Duration // by reader
}

// paced begins to read.
func (f feed) paced(rs *readers, writer *conn, duration time.Duration) *paced {
	p := &paced{feed: f, rs: rs, writer: writer, epoch: time.Now(), writes: int(duration.Seconds() * pacePerSecond)}
	p.sent = make([]atomic.Int64, 2*p.writes)
	p.took = make([][]time.Duration, len(rs.conns))
	rs.start(func(reader, n int, at time.Time) {
		p.took[reader] = append(p.took[reader], at.Sub(p.epoch)-time.Duration(p.sent[n].Load()))
	})
	return p
}

// pass writes for one of the passes, and waits until all readers have all of it.
func (p *paced) pass(ctx context.Context, pass int) (cores float64, err error) {
	var cpu usage
	cpu.begin()
	tick := time.NewTicker(time.Second / pacePerSecond)
	defer tick.Stop()
	for n := pass * p.writes; n < (pass+1)*p.writes; n++ {
		<-tick.C
		p.sent[n].Store(int64(time.Since(p.epoch)))
		if err := p.feed.write(p.writer, n); err != nil {
			return 0, err
		}
	}
	cores = cpu.end()
	return cores, p.rs.await(ctx, int64(pass+1)*int64(p.writes)*int64(len(p.took)))
}

// sorted returns how long all deliveries of a pass took, once the readers have ended.
func (p *paced) sorted(pass int) latencyList {
	var all latencyList
	for _, one := range p.took {
		all = append(all, one[pass*p.writes:(pass+1)*p.writes]...)
	}
	slices.Sort(all)
	return all
}

// latencyList is latencies in order.
type latencyList []time.Duration

// at returns a quantile in milliseconds.
func (l latencyList) at(percent int) float64 {
	return l[min(len(l)-1, len(l)*percent/100)].Seconds() * 1e3
}

// latency measures the time from a write to its arrival at each of 1,000 readers, with 50 writes a second; and
// then, if stalled is the name of a row, beside one more reader that reads nothing.
func (f feed) latency(stalled string) func(context.Context, *machine) ([]result, error) {
	return func(ctx context.Context, m *machine) ([]result, error) {
		server, rs, writer, err := f.open(m, ctx, fanOutReaders)
		if err != nil {
			return nil, err
		}
		defer writer.hangUp()
		defer rs.close()
		p := f.paced(rs, writer, m.opts.duration)
		used, err := p.pass(ctx, 0)
		if err != nil {
			return nil, err
		}
		if stalled != "" {
			frozen, err := f.join(server.addr, 1)
			if err != nil {
				return nil, err
			}
			defer frozen.close()
			if _, err := p.pass(ctx, 1); err != nil {
				return nil, err
			}
		}
		rs.close()
		alone := p.sorted(0)
		rows := []result{{
			Name: f.prefix + "fanout/1000/p99", Value: alone.at(99), Unit: "ms", Limit: 50, LimitName: "agreed", Target: 1, Less: true, GeneratorCPU: used,
			Note: fmt.Sprintf("%d %s/s; p50 %s ms, worst %s ms", pacePerSecond, f.writes, number(alone.at(50)), number(alone.at(100))),
		}}
		if stalled != "" {
			rows = append(rows, result{
				Name: f.prefix + stalled, Value: p.sorted(1).at(99), Unit: "ms", Limit: alone.at(99), LimitName: "without it", Target: 1.3, Less: true,
				Note: "99th percentile beside one of the " + f.reads + " that reads nothing",
			})
		}
		return rows, nil
	}
}

// idle measures what a reader costs while nothing is written.
func (f feed) idle(ctx context.Context, m *machine) ([]result, error) {
	n, err := openFiles(5000)
	if err != nil {
		return nil, err
	}
	p, rs, writer, err := f.open(m, ctx, 1)
	if err != nil {
		return nil, err
	}
	defer writer.hangUp()
	defer rs.close()
	if err := f.write(writer, 0); err != nil {
		return nil, err
	}
	before, err := p.settled(ctx)
	if err != nil {
		return nil, err
	}
	more, err := f.join(p.addr, n)
	if err != nil {
		return nil, err
	}
	defer more.close()
	more.start(nil)
	after, err := p.settled(ctx)
	if err != nil {
		return nil, err
	}
	// They must be readers indeed.
	if err := f.write(writer, 1); err != nil {
		return nil, err
	}
	if err := more.await(ctx, int64(n)); err != nil {
		return nil, err
	}
	return []result{{
		Name: f.prefix + "idle/" + f.reads, Value: (after - before) / 1024 / float64(n), Unit: "KiB each",
		Limit: 16, LimitName: "agreed", Target: 1, Less: true, Note: fmt.Sprintf("%d %s", n, f.reads),
	}}, nil
}
