package delivery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
)

// unknown is the place of a reader that has yet to be told where it is.
const unknown = -1

// reader follows a stream in one way, from wherever it was told last.
type reader struct {
	name    string
	run     *run
	stream  *stream
	network *network
	http    *http.Client
	r       *rand.Rand
	step    func(ctx context.Context) error // one request, or as many as the way of reading makes of it
	mark    *mark
	polls   bool // by long-poll

	// What a client keeps. It begins anew when the client is told that the stream is gone.
	life   *life // nil until something tells
	at     int
	token  string // the offset that stands for at
	cursor string
	tag    string // what tells lives apart: the first part of an ETag, or an id
	fromID bool   // EventSource: goes on with Last-Event-ID
	fell   bool   // its last read came to storage

	mu      sync.Mutex
	state   standing
	history []string
}

// standing is where a reader is, for those who wait for it.
type standing struct {
	life  *life
	at    int
	level bool // it was told to be up to date there
	ended bool // it was told that the stream is closed
	gone  bool // it was told that the stream is not there
}

func (rd *reader) note(format string, args ...any) {
	line := fmt.Sprintf("%8.3fs ", time.Since(rd.run.began).Seconds()) + fmt.Sprintf(format, args...)
	rd.mu.Lock()
	defer rd.mu.Unlock()
	if len(rd.history) >= 60 {
		rd.history = rd.history[20:]
	}
	rd.history = append(rd.history, line)
}

func (rd *reader) where() standing {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	return rd.state
}

func (rd *reader) stand(level, ended, gone bool) {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	rd.state = standing{life: rd.life, at: rd.at, level: level, ended: ended, gone: gone}
}

func (rd *reader) story() string {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	return strings.Join(rd.history, "\n    ")
}

// errEnded says that a reader was told the end of a closed stream.
var errEnded = errors.New("the stream is closed")

// errRetry says that a reader is to try again a little later.
var errRetry = errors.New("try again")

// read reads until ctx ends or something is violated.
func (rd *reader) read(ctx context.Context) {
	for ctx.Err() == nil {
		err := rd.step(ctx)
		var v *violation
		switch {
		case errors.As(err, &v):
			rd.run.fail(v, rd)
			return
		case errors.Is(err, errEnded):
			rd.note("told the end at %d", rd.at)
			rd.stand(true, true, false)
			rd.run.awaitNext(ctx, rd)
			rd.restart(0)
		case err != nil && ctx.Err() == nil:
			rd.note("%v", err)
			pause(ctx, time.Duration(1+rd.r.IntN(8))*time.Millisecond)
		}
	}
}

// restart begins anew, at a place.
func (rd *reader) restart(at int) {
	rd.life, rd.tag, rd.cursor, rd.fromID = nil, "", "", false
	rd.move(at)
}

func (rd *reader) move(at int) {
	rd.at = at
	switch at {
	case unknown:
		rd.token = "now"
	case 0:
		rd.token = "-1"
	default:
		rd.token = runnel.Sequence(at).Offset()
	}
}

// attempt is one request of a reader.
type attempt struct {
	*reader
	snapshot
	life     *life // that answers, as far as is known
	at       int   // the last entry got
	unplaced []label
	fresh    bool // the reader began here, where the earliest entry kept may be
	during   int64
}

func (rd *reader) begin() *attempt {
	a := &attempt{reader: rd, snapshot: rd.stream.snapshot(), life: rd.life, at: rd.at, fresh: rd.at <= 0, during: rd.run.server.generation.Load()}
	if a.fresh {
		a.at = unknown // retention may have moved the beginning
	}
	return a
}

// certain returns the life that is answering, if nothing else can be.
func (a *attempt) certain() *life {
	if l := a.live; l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.ending {
			return l
		}
	}
	return nil
}

// tagged notes what tells the life that answers from others. It says whether the reader was following
// another one, which is over then.
func (a *attempt) tagged(tag string) (other bool, err error) {
	if tag == "" {
		return false, nil
	}
	if a.tag != "" && a.tag != tag {
		a.run.cover.hit("followed a re-created name and was told")
		a.note("another stream has the name: %s, not %s", tag, a.tag)
		if l := a.certain(); l != nil && l == a.reader.life {
			return true, violated(noMixing, "%s answers as %s, and was %s", l, tag, a.tag)
		}
		a.restart(0)
		return true, nil
	}
	a.tag = tag
	l := a.run.tagged(a.stream, tag)
	switch {
	case l == nil:
		return false, nil
	case a.life != nil && a.life != l:
		if a.certain() == a.life {
			return true, violated(noMixing, "%s answers with what stands for %s", a.life, l)
		}
		a.restart(0) // the tag is the first that this reader gets
		return true, nil
	}
	a.life = l
	return false, nil
}

// resolve finds the life that answers with an entry at a place.
func (a *attempt) resolve(seq int, e label) (*life, error) {
	if a.life != nil {
		if a.life.owner(seq).id != e.life {
			return nil, violated(noMixing, "a reader of %s gets %s at %d, which is of life %d", a.life, e, seq, a.life.owner(seq).id)
		}
		return a.life, nil
	}
	var found *life
	for _, l := range a.stream.candidates(a.since) {
		if l.owner(seq).id == e.life {
			found = l
		}
	}
	if found == nil {
		return nil, violated(noMixing, "a reader of %s gets %s at %d, which is of no life that there may be", a.stream.name, e, seq)
	}
	a.life = found
	if a.tag != "" {
		if err := a.run.tag(a.stream, a.tag, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// entry takes the next entry.
func (a *attempt) entry(e label) error {
	if a.at == unknown {
		a.unplaced = append(a.unplaced, e)
		return nil
	}
	seq := a.at + 1
	l, err := a.resolve(seq, e)
	if err != nil {
		return err
	}
	if l == a.live && seq <= a.dropped {
		return violated(keptOut, "%s shows %d, and was cut at %d before the read", l, seq, a.dropped)
	}
	if err := l.owner(seq).see(seq, e); err != nil {
		return err
	}
	a.at = seq
	return nil
}

// arrive takes an offset that stands for all entries so far.
func (a *attempt) arrive(token string, level bool) error {
	s, err := runnel.ParseOffset(token)
	if err != nil {
		return violated(protocol, "%v", err)
	}
	seq := int(s)
	if a.at == unknown {
		if a.at = seq - len(a.unplaced); a.at < 0 {
			return violated(exactOffset, "offset %d follows %d entries", seq, len(a.unplaced))
		}
		early := a.unplaced
		a.unplaced = nil
		began := a.at
		for _, e := range early {
			if err := a.entry(e); err != nil {
				return err
			}
		}
		if l := a.certain(); a.fresh && a.reader.at == 0 && l != nil && began > 0 {
			dropped := 0
			if l == a.live {
				dropped = a.dropped
			}
			if err := l.trimmed(0, began, dropped); err != nil {
				return err
			}
		}
	}
	if a.at != seq {
		return violated(exactOffset, "after the entries up to %d comes offset %d", a.at, seq)
	}
	l := a.life
	if l == nil {
		l = a.certain()
	}
	if level && l != nil && l == a.live && seq < a.floor {
		return violated(readsWrites, "%s is said to be up to date at %d, and had %d entries before the read", l, seq, a.floor)
	}
	if a.reader.at != unknown && a.life == a.reader.life && a.life != nil && seq < a.reader.at {
		return violated(noGap, "the offset goes back from %d to %d", a.reader.at, seq)
	}
	return nil
}

// keep makes the reader go on from where the attempt is.
func (a *attempt) keep(level bool) {
	if l := a.life; l != nil && a.at > 0 && l.middle(a.at) && a.at != a.reader.at {
		a.run.cover.hit("an offset in the middle of a batch")
	}
	a.reader.life = a.life
	a.move(a.at)
	a.stand(level, false, false)
}

// end takes the news that the stream is closed.
func (a *attempt) end() error {
	l := a.life
	if l == nil {
		l = a.certain()
	}
	if l != nil {
		a.reader.life = l
		if err := l.closed(a.at); err != nil {
			return err
		}
	}
	a.run.cover.hit("told the end of a closed stream")
	return errEnded
}

// absent takes the news that there is no such stream.
func (a *attempt) absent() error {
	if l := a.certain(); l != nil && (a.life == nil || a.life == l) {
		return violated(exactEnd, "%s is told not to be there", l)
	}
	if a.reader.life != nil {
		a.run.cover.hit("told that the stream is gone")
	}
	a.restart(0)
	a.stand(false, false, true)
	return errRetry
}

// overtaken takes the news of the earliest entry kept.
func (a *attempt) overtaken(earliest int) error {
	l := a.life
	if l == nil {
		l = a.certain()
	}
	if l != nil {
		dropped := 0
		if l == a.live {
			dropped = a.dropped
		}
		if err := l.trimmed(max(a.reader.at, 0), earliest, dropped); err != nil {
			return err
		}
	}
	if a.reader.at > 0 {
		a.run.cover.hit("overtaken by retention")
	}
	a.note("overtaken at %d: the earliest is %d", a.reader.at, earliest)
	a.move(earliest)
	a.stand(false, false, false)
	return nil
}

// beyond takes the news that the place is beyond the tail, which only a place of another life can be.
func (a *attempt) beyond() error {
	if l := a.certain(); l != nil && a.reader.life == l {
		return violated(readsWrites, "%s: %d is said to be beyond the tail", l, a.reader.at)
	}
	a.run.cover.hit("followed a re-created name and was told")
	a.restart(0)
	return errRetry
}

// refused takes an answer that is none of 200 and 204.
func (a *attempt) refused(err error) error {
	var trimmed *runnel.TrimmedError
	var refusal *dsclient.Error
	switch {
	case errors.As(err, &trimmed):
		return a.overtaken(int(trimmed.Earliest))
	case errors.As(err, &refusal) && errors.Is(err, runnel.ErrTrimmed):
		s, perr := runnel.ParseOffset(refusal.Detail.EarliestOffset)
		if perr != nil {
			return violated(protocol, "410 with the earliest offset %q", refusal.Detail.EarliestOffset)
		}
		return a.overtaken(int(s))
	case errors.Is(err, runnel.ErrNotFound) || errors.Is(err, runnel.ErrSoftDeleted):
		return a.absent()
	case errors.Is(err, runnel.ErrBeyondTail):
		return a.beyond()
	case errors.Is(err, runnel.ErrUnavailable) || errors.Is(err, runnel.ErrShutdown):
		return fmt.Errorf("%w: %w", errRetry, err)
	case refusal != nil && a.run.server.generation.Load() != a.during: // it was stopped meanwhile
		return fmt.Errorf("%w: %w", errRetry, err)
	case refusal != nil && refusal.Detail.Code == "" && a.network.last.Load().wasCut.Load():
		return fmt.Errorf("%w: %w", errRetry, err) // in the middle of the reason
	case refusal != nil:
		return violated(protocol, "%v", err)
	}
	return fmt.Errorf("%w: %w", errRetry, err) // of the network
}

// cached counts readers that fell out of the tail cache and came back.
func (rd *reader) cached(data bool) {
	scanned := rd.mark.scanned.Swap(false)
	if !data {
		return
	}
	if rd.fell && !scanned && rd.at > 0 {
		rd.run.cover.hit("fell out of the tail cache and came back")
	}
	rd.fell = scanned
}

// pause lets time pass, and returns early when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
