package webhook

import (
	"bytes"
	"cmp"
	"container/list"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/runnelhq/runnel"
)

// Algorithm is the name that the protocol has for the signatures, in the metadata of a subscription.
const Algorithm = "ed25519"

// The defaults of a [KeysConfig] are stated only here.
const (
	DefaultRotateEvery = 30 * 24 * time.Hour
	DefaultTokenTTL    = 24 * time.Hour
)

const (
	// keysAhead is how long a new key is published before it signs, so that no receiver meets a key that
	// its copy of the key set cannot have: twice the time for which the set may be cached.
	keysAhead = 2 * JWKSMaxAge
	// keysAfter is how long a key is published after it signed last: longer than any receiver accepts an
	// old signature, and than a process goes on with what it knew.
	keysAfter = time.Hour
	// keysFresh is how long a process believes what it read.
	keysFresh = time.Minute
	// keysKept is how many stores a process remembers the keys of.
	keysKept = 4096
)

// JWKSMaxAge is for how long a key set may be cached. Source: PROTOCOL.md, section 6.5.
const JWKSMaxAge = 5 * time.Minute

// ErrMoved is what a [Vault] answers when somebody else has stored in between.
var ErrMoved = errors.New("webhook: the keys were stored by somebody else")

// Vault keeps one small blob for each store. It holds private keys.
type Vault interface {
	// LoadKeys returns what was stored last and the version of that; nil and 0 if there is nothing.
	LoadKeys(ctx context.Context, store runnel.Store) (data []byte, version uint64, err error)
	// StoreKeys makes data durable if version is still the current one. Otherwise it fails with ErrMoved.
	StoreKeys(ctx context.Context, store runnel.Store, data []byte, version uint64) error
}

// KeysConfig holds what can be set. The zero KeysConfig is right for most programs.
type KeysConfig struct {
	// RotateEvery is how long a key signs before the next one does. 0 means DefaultRotateEvery, less than 0
	// never.
	RotateEvery time.Duration
	// TokenTTL is how long a token is good for, whatever the lease says. It bounds how long one worker can
	// go on with one wake. 0 means DefaultTokenTTL.
	TokenTTL time.Duration
}

// Keys has the signing keys and the token keys of all stores. Each store has its own, so that a receiver that
// trusts one tenant is not deceived by another. They are made when they are needed first, kept in the vault,
// and replaced in time; an old public key is published until nothing that it signed is accepted any more.
//
// Several processes may use one vault.
type Keys struct {
	vault Vault
	cfg   KeysConfig

	mu     sync.Mutex
	stores map[runnel.Store]*list.Element // of *storeKeys
	recent list.List                      // the most recently used first
}

type storeKeys struct {
	store runnel.Store
	mu    sync.Mutex // held while they are read or written, so that one does it for all
	set   *keySet    // nil: not known yet
	read  time.Time
}

// NewKeys returns the keys that are in a vault.
func NewKeys(vault Vault, cfg KeysConfig) *Keys {
	cfg.RotateEvery = cmp.Or(cfg.RotateEvery, DefaultRotateEvery)
	cfg.TokenTTL = cmp.Or(cfg.TokenTTL, DefaultTokenTTL)
	return &Keys{vault: vault, cfg: cfg, stores: make(map[runnel.Store]*list.Element)}
}

// JWKS returns the JSON Web Key Set of a store: the public keys that sign, will sign soon, or did until
// recently. It makes none, because anybody may ask: where nothing has been signed the set is empty.
func (k *Keys) JWKS(ctx context.Context, store runnel.Store) ([]byte, error) {
	set, err := k.of(ctx, store, false)
	if errors.Is(err, errNoKeys) {
		return json.Marshal(JSONWebKeySet{Keys: []JSONWebKey{}})
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(set.public(time.Now()))
}

// SigningKey returns the id of the key that signs now.
func (k *Keys) SigningKey(ctx context.Context, store runnel.Store) (string, error) {
	set, err := k.of(ctx, store, true)
	if err != nil {
		return "", err
	}
	return set.signer(time.Now()).ID, nil
}

// Sign returns the value of the header [HeaderSignature] for a body that is sent at a moment.
func (k *Keys) Sign(ctx context.Context, store runnel.Store, body []byte, at time.Time) (string, error) {
	set, err := k.of(ctx, store, true)
	if err != nil {
		return "", err
	}
	return set.signer(at).sign(body, at), nil
}

// Rotate begins to replace the signing key and the token key of a store: the new ones are published at once
// and used after a while, the old ones go on until then.
func (k *Keys) Rotate(ctx context.Context, store runnel.Store) error {
	s := k.entry(store)
	s.mu.Lock()
	defer s.mu.Unlock()
	return k.change(ctx, s, func(set *keySet, now time.Time) error { return set.rotate(now) })
}

// of returns the keys of a store as of a minute ago at the earliest. Without create it fails with
// errNoKeys where there are none.
func (k *Keys) of(ctx context.Context, store runnel.Store, create bool) (*keySet, error) {
	s := k.entry(store)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.set == nil || now.Sub(s.read) >= keysFresh || now.Before(s.read) {
		set, err := k.load(ctx, store)
		switch {
		case err == nil:
			s.set, s.read = set, now
		case s.set == nil:
			return nil, err
		}
		// What was known before is still good while the vault does not answer.
	}
	switch {
	case s.set == nil && !create:
		return nil, errNoKeys
	case s.set == nil, s.set.due(now, k.cfg.RotateEvery):
		err := k.change(ctx, s, func(set *keySet, now time.Time) error {
			if len(set.Keys) > 0 && !set.due(now, k.cfg.RotateEvery) {
				return nil // somebody else did
			}
			return set.rotate(now)
		})
		if err != nil && s.set == nil {
			return nil, err
		}
		// Keys that should have been replaced are still good.
	}
	return s.set, nil
}

func (k *Keys) load(ctx context.Context, store runnel.Store) (*keySet, error) {
	data, _, err := k.vault.LoadKeys(ctx, store)
	if err != nil {
		return nil, fmt.Errorf("webhook: load keys: %w", err)
	}
	if len(data) == 0 {
		return nil, nil
	}
	return decodeKeys(data)
}

var errNoKeys = errors.New("webhook: the store has no keys")

// change stores changed keys, beginning again when somebody else stored in between.
func (k *Keys) change(ctx context.Context, s *storeKeys, do func(*keySet, time.Time) error) error {
	for {
		data, version, err := k.vault.LoadKeys(ctx, s.store)
		if err != nil {
			return fmt.Errorf("webhook: load keys: %w", err)
		}
		set := new(keySet)
		if len(data) > 0 {
			if set, err = decodeKeys(data); err != nil {
				return err
			}
		}
		now := time.Now()
		if err := do(set, now); err != nil {
			return err
		}
		set.prune(now)
		next, err := set.encode()
		if err != nil {
			return err
		}
		if !bytes.Equal(next, data) {
			err = k.vault.StoreKeys(ctx, s.store, next, version)
		}
		switch {
		case errors.Is(err, ErrMoved):
			continue
		case err != nil:
			return fmt.Errorf("webhook: store keys: %w", err)
		}
		s.set, s.read = set, now
		return nil
	}
}

func (k *Keys) entry(store runnel.Store) *storeKeys {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e, ok := k.stores[store]; ok {
		k.recent.MoveToFront(e)
		return e.Value.(*storeKeys) //nolint:errcheck // the list holds nothing else
	}
	s := &storeKeys{store: store}
	k.stores[store] = k.recent.PushFront(s)
	if k.recent.Len() > keysKept {
		last := k.recent.Back()
		k.recent.Remove(last)
		delete(k.stores, last.Value.(*storeKeys).store) //nolint:errcheck // the list holds nothing else
	}
	return s
}

// keySet is what the vault keeps for a store, as JSON. Keys are in the order in which they sign.
type keySet struct {
	// Version is 1.
	Version int   `json:"version"`
	Keys    []key `json:"keys"`
}

// key is one generation of keys: the one that signs requests and the one that makes tokens.
type key struct {
	ID string `json:"kid"`
	// Seed is that of the Ed25519 key, and Secret that of the tokens' HMAC.
	Seed   []byte `json:"seed"`
	Secret []byte `json:"secret"`
	// From is when it begins to sign, in seconds since 1970. It signs until the From of the next one.
	From int64 `json:"from"`

	private ed25519.PrivateKey
}

const secretBytes = 32

func newKey(random io.Reader, from time.Time) (key, error) {
	k := key{Seed: make([]byte, ed25519.SeedSize), Secret: make([]byte, secretBytes), From: from.Unix()}
	if _, err := io.ReadFull(random, k.Seed); err != nil {
		return key{}, err
	}
	if _, err := io.ReadFull(random, k.Secret); err != nil {
		return key{}, err
	}
	k.complete()
	k.ID = k.thumbprint()
	return k, nil
}

func (k *key) complete() { k.private = ed25519.NewKeyFromSeed(k.Seed) }

func (k *key) x() string {
	public, _ := k.private.Public().(ed25519.PublicKey)
	return base64.RawURLEncoding.EncodeToString(public)
}

// thumbprint derives the id from the public key, as RFC 7638 and RFC 8037 say.
func (k *key) thumbprint() string {
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + k.x() + `"}`))
	return "ds_" + base64.RawURLEncoding.EncodeToString(sum[:])
}

func decodeKeys(data []byte) (*keySet, error) {
	set := new(keySet)
	if err := json.Unmarshal(data, set); err != nil {
		return nil, errors.New("webhook: the stored keys are no JSON") // the cause could show them
	}
	if set.Version != 1 || len(set.Keys) == 0 {
		return nil, fmt.Errorf("webhook: the stored keys are of version %d with %d keys; version 1 is known", set.Version, len(set.Keys))
	}
	for i := range set.Keys {
		k := &set.Keys[i]
		if len(k.Seed) != ed25519.SeedSize || len(k.Secret) != secretBytes {
			return nil, errors.New("webhook: a stored key has not its length")
		}
		k.complete()
		if k.ID != k.thumbprint() {
			return nil, errors.New("webhook: a stored key does not belong to its id")
		}
	}
	return set, nil
}

func (s *keySet) encode() ([]byte, error) {
	s.Version = 1
	return json.Marshal(s)
}

// signer returns the key that signs at a moment: the last one whose time has come.
func (s *keySet) signer(at time.Time) *key {
	for i := len(s.Keys) - 1; i > 0; i-- {
		if s.Keys[i].From <= at.Unix() {
			return &s.Keys[i]
		}
	}
	return &s.Keys[0]
}

func (s *keySet) byID(id string) *key {
	for i := range s.Keys {
		if s.Keys[i].ID == id {
			return &s.Keys[i]
		}
	}
	return nil
}

// due says whether the next key should be made: it is published for a while before it signs.
func (s *keySet) due(now time.Time, every time.Duration) bool {
	last := time.Unix(s.Keys[len(s.Keys)-1].From, 0)
	return every > 0 && !now.Before(last.Add(every-keysAhead))
}

// rotate adds a key. The first one signs at once, another after a while.
func (s *keySet) rotate(now time.Time) error {
	from := now
	if len(s.Keys) > 0 {
		from = now.Add(keysAhead)
		if last := time.Unix(s.Keys[len(s.Keys)-1].From, 0); from.Before(last) {
			from = last // the one before has not begun yet either
		}
	}
	k, err := newKey(rand.Reader, from)
	if err != nil {
		return fmt.Errorf("webhook: make a key: %w", err)
	}
	s.Keys = append(s.Keys, k)
	return nil
}

// prune drops keys that signed nothing for so long that nobody accepts it. The tokens of a dropped key are
// not good any more either, so it stays for the life of the longest one that it can have made.
func (s *keySet) prune(now time.Time) {
	for len(s.Keys) > 1 && !now.Before(time.Unix(s.Keys[1].From, 0).Add(maxTokenTTL+keysAfter)) {
		s.Keys = s.Keys[1:]
	}
}

// A JSONWebKey is a public key as RFC 8037 writes it.
type JSONWebKey struct {
	Type      string `json:"kty"`
	Curve     string `json:"crv"`
	ID        string `json:"kid"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	X         string `json:"x"`
}

// JSONWebKeySet is the document that receivers fetch.
type JSONWebKeySet struct {
	Keys []JSONWebKey `json:"keys"`
}

func (s *keySet) public(now time.Time) JSONWebKeySet {
	doc := JSONWebKeySet{Keys: make([]JSONWebKey, 0, len(s.Keys))}
	for i := range s.Keys {
		k := &s.Keys[i]
		if i+1 < len(s.Keys) && !now.Before(time.Unix(s.Keys[i+1].From, 0).Add(keysAfter)) {
			continue // nothing that it signed is accepted any more
		}
		doc.Keys = append(doc.Keys, JSONWebKey{Type: "OKP", Curve: "Ed25519", ID: k.ID, Use: "sig", Algorithm: "EdDSA", X: k.x()})
	}
	return doc
}
