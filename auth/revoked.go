package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/golang-jwt/jwt/v5"

	"github.com/runnelhq/runnel"
)

// Revoked is a file of the ids (jti) of JWTs that are not admitted although they have not expired. An id that
// is added is noticed within seconds, and whatever goes on in the name of its token ends.
//
// A line of the file is an id, perhaps with the time (RFC 3339) after which nobody needs to know it, because the
// token has expired. An id with white space in it is quoted as in Go. Empty lines, and those that begin with #,
// say nothing.
type Revoked struct {
	path string

	mu    sync.Mutex
	stamp fileStamp
	ids   map[string]struct{}
	// live is what ends with an id, for as long as somebody is served under it.
	live map[string]weak.Pointer[ending]
}

// OpenRevoked reads a file of revoked ids. It must be there.
func OpenRevoked(path string) (*Revoked, error) {
	r := &Revoked{path: path}
	return r, r.Reload()
}

// Reload reads the file again. If it cannot be read, or is malformed, everything stays as it was.
func (r *Revoked) Reload() error {
	data, stamp, err := readStamped(r.path)
	if err != nil {
		return err
	}
	lines, err := parseRevoked(data)
	if err != nil {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stamp, r.ids = stamp, make(map[string]struct{}, len(lines))
	for _, line := range lines {
		r.ids[line.id] = struct{}{}
		if e := r.live[line.id].Value(); e != nil {
			e.end(errRevoked)
		}
	}
	return nil
}

// Run looks every second whether the file has changed, and reads it again, until ctx is done. While it cannot
// be read the ids stay as they are.
func (r *Revoked) Run(ctx context.Context, log *slog.Logger) {
	watchFile(ctx, log, "the file of revoked tokens cannot be read; what is revoked stays so", func() error {
		info, err := os.Stat(r.path)
		if err != nil {
			return err
		}
		r.mu.Lock()
		changed := r.stamp.differs(info)
		r.mu.Unlock()
		if !changed {
			return nil
		}
		return r.Reload()
	})
}

// ending returns what ends when an id is revoked, or nil if it is. Of a nil Revoked, and of no id, that is
// something that nobody else has.
func (r *Revoked) ending(id string) *ending {
	if r == nil || id == "" {
		return newEnding()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, revoked := r.ids[id]; revoked {
		return nil
	}
	if e := r.live[id].Value(); e != nil {
		return e
	}
	e := newEnding()
	if r.live == nil {
		r.live = make(map[string]weak.Pointer[ending])
	}
	r.live[id] = weak.Make(e)
	runtime.AddCleanup(e, r.forget, id)
	return e
}

// forget drops an id that nobody is served under any more.
func (r *Revoked) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live[id].Value() == nil {
		delete(r.live, id)
	}
}

// revokedLine is one line of the file.
type revokedLine struct {
	id      string
	expires time.Time // zero if that is not known
}

func parseRevoked(data []byte) (lines []revokedLine, err error) {
	n := 0
	for text := range strings.Lines(string(data)) {
		n++
		if text = strings.TrimSpace(text); text == "" || text[0] == '#' {
			continue
		}
		line, err := parseRevokedLine(text)
		if err != nil {
			return nil, &runnel.InvalidError{What: fmt.Sprintf("line %d", n), Rule: err.Error()}
		}
		lines = append(lines, line)
	}
	return lines, nil
}

func parseRevokedLine(text string) (line revokedLine, err error) {
	var rest string
	if text[0] == '"' {
		quoted, err := strconv.QuotedPrefix(text)
		if err != nil {
			return line, errors.New("begins with a quotation mark and has no other")
		}
		rest = text[len(quoted):]
		if line.id, err = strconv.Unquote(quoted); err != nil || line.id == "" {
			return line, errors.New("has no id")
		}
	} else if line.id, rest, _ = strings.Cut(text, " "); strings.ContainsAny(line.id, "\t\"") {
		return line, errors.New("has an id that must be quoted")
	}
	if rest = strings.TrimSpace(rest); rest == "" {
		return line, nil
	}
	if line.expires, err = time.Parse(time.RFC3339, rest); err != nil {
		return line, errors.New("must be an id, and a time as of RFC 3339 or nothing")
	}
	return line, nil
}

func (l revokedLine) String() string {
	id := l.id
	if strings.ContainsAny(id, " \t\"#\\") || strconv.Quote(id) != `"`+id+`"` {
		id = strconv.Quote(id)
	}
	if l.expires.IsZero() {
		return id
	}
	return id + " " + l.expires.UTC().Format(time.RFC3339)
}

// forgetAfter is how long after its token has expired an id stays in the file: longer than any clock is off.
const forgetAfter = 2 * time.Hour

// AddRevoked adds a token to the content of a file of revoked ids: a JWT, or the id of one. It leaves out what
// nobody needs to know any more. The error matches runnel.ErrInvalid.
func AddRevoked(data []byte, token string) ([]byte, error) {
	add := revokedLine{id: token}
	if strings.Count(token, ".") == 2 {
		var c jwt.RegisteredClaims
		_, _, err := jwt.NewParser().ParseUnverified(token, &c)
		switch {
		case err == nil && c.ID == "":
			return nil, &runnel.InvalidError{What: "token", Rule: "has no id (jti), and cannot be revoked by itself"}
		case err == nil:
			add = revokedLine{id: c.ID}
			if c.ExpiresAt != nil {
				add.expires = c.ExpiresAt.Time
			}
		}
	}
	if add.id == "" {
		return nil, &runnel.InvalidError{What: "token", Rule: "must be a JWT, or the id of one"}
	}
	lines, err := parseRevoked(data)
	if err != nil {
		return nil, err
	}
	var kept []byte
	for text := range strings.Lines(string(data)) {
		trimmed := strings.TrimSpace(text)
		if trimmed != "" && trimmed[0] != '#' {
			line := lines[0]
			lines = lines[1:]
			if line.id == add.id || !line.expires.IsZero() && time.Since(line.expires) > forgetAfter {
				continue
			}
		}
		kept = append(kept, trimmed+"\n"...)
	}
	return append(kept, add.String()+"\n"...), nil
}
