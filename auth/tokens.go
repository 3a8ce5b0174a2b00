package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/runnelhq/runnel"
)

// Tokens verifies the tokens of a file. The file holds no secrets: of each token there is a hash. A token
// that is taken out of the file, or changed in it, is revoked, and whatever goes on in its name ends.
type Tokens struct {
	path string

	mu     sync.Mutex
	byID   map[string]*issued
	stamp  fileStamp
	absent bool // the file was not there when it was looked for last
}

// issued is a token of the file with the principal that it stands for.
type issued struct {
	token     Token
	principal *Principal
}

// OpenTokens reads a file of tokens. It must be there.
func OpenTokens(path string) (*Tokens, error) {
	t := &Tokens{path: path}
	return t, t.Reload()
}

// Verify is part of [Verifier].
func (t *Tokens) Verify(_ context.Context, token string) (*Principal, error) {
	rest, ok := strings.CutPrefix(token, tokenPrefix)
	if !ok {
		return nil, ErrNotMine
	}
	id, _, _ := strings.Cut(rest, "_")
	sum := sha256.Sum256([]byte(token))
	t.mu.Lock()
	one := t.byID[id]
	t.mu.Unlock()
	if one == nil || subtle.ConstantTimeCompare(one.token.sum[:], sum[:]) != 1 {
		return nil, &runnel.UnauthorizedError{Reason: "is not known, or has been revoked"}
	}
	return one.principal, nil
}

// Reload reads the file again. If it cannot be read, or holds something that is no token, everything stays
// as it was.
func (t *Tokens) Reload() error {
	data, stamp, err := readStamped(t.path)
	if err != nil {
		return err
	}
	tokens, err := ParseTokens(data)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stamp, t.absent = stamp, false
	t.replace(tokens)
	return nil
}

// replace revokes what is not among the tokens. The caller holds the lock.
func (t *Tokens) replace(tokens []Token) {
	old := t.byID
	t.byID = make(map[string]*issued, len(tokens))
	for _, token := range tokens {
		if was := old[token.ID]; was != nil && was.token.String() == token.String() {
			t.byID[token.ID] = was
			delete(old, token.ID)
			continue
		}
		t.byID[token.ID] = &issued{token: token, principal: NewPrincipal(token.Subject, token.Expires, token.Scopes...)}
	}
	for _, gone := range old {
		gone.principal.Revoke()
	}
}

// Run looks every second whether the file has changed, and reads it again, until ctx is done. A file that
// is gone for longer than a moment revokes all tokens.
func (t *Tokens) Run(ctx context.Context, log *slog.Logger) {
	watchFile(ctx, log, "the file of tokens cannot be read; the tokens stay as they are", t.look)
}

// look reads the file again if it has changed.
func (t *Tokens) look() error {
	info, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.absent { // the second time: nobody is just replacing it
			t.replace(nil)
		}
		t.absent, t.stamp = true, fileStamp{size: -1}
		return nil
	}
	if err != nil {
		return err
	}
	t.mu.Lock()
	changed := t.stamp.differs(info)
	t.mu.Unlock()
	if !changed {
		return nil
	}
	return t.Reload()
}

// EditTokens replaces the lines of a file of tokens by what edit returns. The file is made where it is
// missing, and whoever reads it sees the old or the new one. Edits by several programs come one after the
// other.
func EditTokens(path string, edit func([]byte) ([]byte, error)) error {
	return editFile(path, func(before []byte) ([]byte, error) {
		after, err := edit(before)
		if err == nil {
			_, err = ParseTokens(after)
		}
		return after, err
	})
}

// EditRevoked does the same with a file of revoked ids.
func EditRevoked(path string, edit func([]byte) ([]byte, error)) error {
	return editFile(path, func(before []byte) ([]byte, error) {
		after, err := edit(before)
		if err == nil {
			_, err = parseRevoked(after)
		}
		return after, err
	})
}
