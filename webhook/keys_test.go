package webhook

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

var update = flag.Bool("update", false, "write the golden files")

// vault keeps keys in memory.
type vault struct {
	mu       sync.Mutex
	data     map[runnel.Store][]byte
	versions map[runnel.Store]uint64
	loads    int
	failure  error
	between  func() // runs once, after a load
}

func (v *vault) LoadKeys(_ context.Context, store runnel.Store) ([]byte, uint64, error) {
	v.mu.Lock()
	v.loads++
	data, version, failure, between := v.data[store], v.versions[store], v.failure, v.between
	v.between = nil
	v.mu.Unlock()
	if between != nil {
		between()
	}
	return data, version, failure
}

func (v *vault) StoreKeys(_ context.Context, store runnel.Store, data []byte, version uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failure != nil {
		return v.failure
	}
	if v.versions[store] != version {
		return ErrMoved
	}
	if v.data == nil {
		v.data, v.versions = make(map[runnel.Store][]byte), make(map[runnel.Store]uint64)
	}
	v.data[store] = bytes.Clone(data)
	v.versions[store]++
	return nil
}

func (v *vault) fail(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.failure = err
}

func published(t *testing.T, k *Keys, store runnel.Store) []string {
	t.Helper()
	doc, err := k.JWKS(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := parseJWKS(doc)
	if err != nil {
		t.Fatal(err)
	}
	var set JSONWebKeySet
	if err := json.Unmarshal(doc, &set); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, key := range set.Keys {
		if keys[key.ID] == nil {
			t.Fatalf("key %s cannot be read back", key.ID)
		}
		ids = append(ids, key.ID)
	}
	return ids
}

func signingKey(t *testing.T, k *Keys, store runnel.Store) string {
	t.Helper()
	id, err := k.SigningKey(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// PROTOCOL.md, section 6.5.
func TestTheKeySetIsThatOfTheProtocol(t *testing.T) {
	k := NewKeys(new(vault), KeysConfig{})
	if doc, err := k.JWKS(t.Context(), runnel.Store{}); err != nil || string(doc) != `{"keys":[]}` {
		t.Fatalf("whoever asks makes keys: %s, %v", doc, err)
	}
	want := signingKey(t, k, runnel.Store{})
	doc, err := k.JWKS(t.Context(), runnel.Store{})
	if err != nil {
		t.Fatal(err)
	}
	var set map[string][]map[string]string
	if err := json.Unmarshal(doc, &set); err != nil {
		t.Fatal(err)
	}
	key := set["keys"][0]
	if len(key) != 6 || key["kty"] != "OKP" || key["crv"] != "Ed25519" || key["use"] != "sig" || key["alg"] != "EdDSA" || key["kid"] != want {
		t.Fatalf("%s", doc)
	}
	if x, err := base64.RawURLEncoding.DecodeString(key["x"]); err != nil || len(x) != ed25519.PublicKeySize {
		t.Fatalf("x is %q", key["x"])
	}
	if strings.Contains(string(doc), `"d"`) || strings.Contains(string(doc), "seed") || strings.Contains(string(doc), "secret") {
		t.Fatalf("a secret is published: %s", doc)
	}
}

func TestKeysOutliveTheProcess(t *testing.T) {
	v := new(vault)
	first := signingKey(t, NewKeys(v, KeysConfig{}), runnel.Store{})
	if again := signingKey(t, NewKeys(v, KeysConfig{}), runnel.Store{}); again != first {
		t.Fatalf("%s became %s", first, again)
	}
}

func TestStoresDoNotShareKeys(t *testing.T) {
	k := NewKeys(new(vault), KeysConfig{})
	other := runnel.Store(uuid.MustParse("7d444840-9dc0-11d1-b245-5ffdce74fad2"))
	if signingKey(t, k, runnel.Store{}) == signingKey(t, k, other) {
		t.Fatal("one tenant's receivers would believe another")
	}
}

func TestProcessesThatBeginTogetherAgreeOnKeys(t *testing.T) {
	v := new(vault)
	one, two := NewKeys(v, KeysConfig{}), NewKeys(v, KeysConfig{})
	var winner string
	v.between = func() { // one has found nothing, and is about to look again
		v.mu.Lock()
		v.between = func() { winner = signingKey(t, two, runnel.Store{}) }
		v.mu.Unlock()
	}
	if got := signingKey(t, one, runnel.Store{}); got != winner || winner == "" {
		t.Fatalf("one has %q, two has %q", got, winner)
	}
}

// PROTOCOL.md, section 6.5: old public keys MUST be published until all deliveries that could have been
// signed with them are outside the replay window.
func TestKeysRotateWithAnOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s runnel.Store
		v := new(vault)
		k := NewKeys(v, KeysConfig{RotateEvery: 24 * time.Hour})
		first := signingKey(t, k, s)
		wait(24*time.Hour - keysAhead - time.Second)
		if ids := published(t, k, s); len(ids) != 1 {
			t.Fatalf("too early: %v", ids)
		}
		wait(2 * keysFresh)
		ids := published(t, k, s)
		if len(ids) != 2 || ids[0] != first || signingKey(t, k, s) != first {
			t.Fatalf("the next key must be published before it signs: %v", ids)
		}
		second := ids[1]
		wait(keysAhead + keysFresh)
		if signingKey(t, k, s) != second {
			t.Fatal("the next key must sign by now")
		}
		if other := NewKeys(v, KeysConfig{RotateEvery: 24 * time.Hour}); signingKey(t, other, s) != second {
			t.Fatal("another process signs with another key")
		}
		wait(DefaultTolerance + JWKSMaxAge)
		if ids := published(t, k, s); len(ids) != 2 || ids[0] != first {
			t.Fatalf("what the old key signed can still be accepted: %v", ids)
		}
		wait(keysAfter)
		if ids := published(t, k, s); len(ids) != 1 || ids[0] != second {
			t.Fatalf("the old key is still published: %v", ids)
		}
	})
}

func TestKeysCanBeReplacedAtWill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKeys(new(vault), KeysConfig{RotateEvery: -1})
		first := signingKey(t, k, runnel.Store{})
		if err := k.Rotate(t.Context(), runnel.Store{}); err != nil {
			t.Fatal(err)
		}
		if ids := published(t, k, runnel.Store{}); len(ids) != 2 || signingKey(t, k, runnel.Store{}) != first {
			t.Fatalf("got %v", ids)
		}
		wait(keysAhead)
		if signingKey(t, k, runnel.Store{}) == first {
			t.Fatal("the old key still signs")
		}
	})
}

func TestKeysThatWereReadAreGoodWhileStorageIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := new(vault)
		k := NewKeys(v, KeysConfig{})
		first := signingKey(t, k, runnel.Store{})
		v.fail(runnel.ErrUnavailable)
		wait(time.Hour)
		if signingKey(t, k, runnel.Store{}) != first {
			t.Fatal("another key")
		}
		if _, err := NewKeys(v, KeysConfig{}).SigningKey(t.Context(), runnel.Store{}); !errors.Is(err, runnel.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestStoredKeysOfVersion1AreRead(t *testing.T) {
	const path = "testdata/keys_v1.json"
	if *update {
		set := new(keySet)
		for i := range 2 {
			k, err := newKey(strings.NewReader(strings.Repeat(string(rune('a'+i)), 64)), time.Unix(1778324210+int64(i)*2592000, 0))
			if err != nil {
				t.Fatal(err)
			}
			set.Keys = append(set.Keys, k)
		}
		data, err := set.encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	set, err := decodeKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 2 || set.Keys[0].From != 1778324210 || string(set.Keys[1].Secret) != strings.Repeat("b", 32) {
		t.Fatalf("got %+v", set)
	}
	if again, err := set.encode(); err != nil || !bytes.Equal(again, data) {
		t.Fatalf("written back as %s, %v", again, err)
	}
}

func FuzzDecodeKeys(f *testing.F) {
	if data, err := os.ReadFile("testdata/keys_v1.json"); err == nil {
		f.Add(data)
	}
	f.Add([]byte(`{"version":1,"keys":[{}]}`))
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := decodeKeys(data)
		if err != nil {
			return
		}
		again, err := set.encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeKeys(again); err != nil {
			t.Fatal(err)
		}
		_ = set.signer(time.Unix(0, 0)).sign(nil, time.Unix(0, 0))
	})
}

// wait lets fake time pass.
func wait(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // inside a synctest bubble
