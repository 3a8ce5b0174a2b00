package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
)

// Tokens verifies the tokens of a file. The file holds no secrets: of each token there is a hash. A token
// that is taken out of the file, or changed in it, is revoked, and whatever goes on in its name ends.
type Tokens struct {
	path string

	mu      sync.Mutex
	byID    map[string]*issued
	size    int64
	modTime time.Time
	absent  bool // the file was not there when it was looked for last
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
	info, err := os.Stat(t.path)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(t.path)
	if err != nil {
		return err
	}
	tokens, err := ParseTokens(data)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.size, t.modTime, t.absent = info.Size(), info.ModTime(), false
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

// tokensInterval is how often the file is looked at.
const tokensInterval = time.Second

// Run looks every second whether the file has changed, and reads it again, until ctx is done. A file that
// is gone for longer than a moment revokes all tokens.
func (t *Tokens) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(tokensInterval)
	defer tick.Stop()
	var said string
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		err := t.look()
		switch {
		case err == nil:
			said = ""
		case err.Error() != said:
			said = err.Error()
			log.ErrorContext(ctx, "the file of tokens cannot be read; the tokens stay as they are", "err", err)
		}
	}
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
		t.absent, t.size = true, -1
		return nil
	}
	if err != nil {
		return err
	}
	// A clock of files is coarse: what was written lately may have changed again at the same time.
	lately := time.Since(info.ModTime()) < 3*time.Second
	t.mu.Lock()
	same := info.Size() == t.size && info.ModTime().Equal(t.modTime)
	t.mu.Unlock()
	if same && !lately {
		return nil
	}
	return t.Reload()
}

// EditTokens replaces the lines of a file of tokens by what edit returns. The file is made where it is
// missing, and whoever reads it sees the old or the new one. Edits by several programs come one after the
// other.
func EditTokens(path string, edit func([]byte) ([]byte, error)) error {
	unlock, err := lock(path + ".lock")
	if err != nil {
		return err
	}
	return errors.Join(editTokens(path, edit), unlock())
}

// A lock is held for as long as a small file takes to be written; one that is older was left by a program
// that was killed.
const (
	lockAge  = 10 * time.Second
	lockLook = 10 * time.Millisecond
)

// lock makes a file that is not there yet.
func lock(path string) (unlock func() error, err error) {
	tick := time.NewTicker(lockLook)
	defer tick.Stop()
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			return func() error { return os.Remove(path) }, f.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > lockAge {
			_ = os.Remove(path) // whoever is first makes it anew
			continue
		}
		<-tick.C
	}
}

func editTokens(path string, edit func([]byte) ([]byte, error)) (err error) {
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	after, err := edit(before)
	if err != nil {
		return err
	}
	if _, err := ParseTokens(after); err != nil {
		return err
	}
	mode := fs.FileMode(0o600)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	next, err := os.CreateTemp(filepath.Dir(path), ".tokens-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(next.Name()) // what failed is told
		}
	}()
	_, err = next.Write(after)
	if err = errors.Join(err, next.Chmod(mode), next.Sync(), next.Close()); err != nil {
		return err
	}
	return os.Rename(next.Name(), path)
}
