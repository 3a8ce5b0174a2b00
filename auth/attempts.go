package auth

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/runnelhq/runnel/wire"
)

// attempts bounds how many tokens of one address are refused in a minute. Tokens that were good once are not
// counted, and not held up: whoever shares an address with one who guesses goes on with the token it has.
type attempts struct {
	most int // in a minute; less than 1 for any number

	mu    sync.Mutex
	by    map[string]*bucket
	known map[[sha256.Size]byte]struct{} // tokens that were good once
}

// bucket is what is left of the attempts of an address, as of a time. It fills up within a minute.
type bucket struct {
	left float64
	at   time.Time
}

// What is remembered at most. Of what is more, any one is forgotten.
const (
	mostAddresses = 16 << 10
	mostKnown     = 16 << 10
)

// try counts an attempt, or refuses it. The returned function is told how it went.
func (a *attempts) try(address, token string) (done func(good, bad bool), err error) {
	if a.most < 1 {
		return func(bool, bool) {}, nil
	}
	sum := sha256.Sum256([]byte(token))
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.known[sum]; ok {
		return func(bool, bool) {}, nil
	}
	b := a.bucket(address, time.Now())
	if b.left < 1 {
		wait := time.Duration((1 - b.left) / float64(a.most) * float64(time.Minute))
		return nil, wire.TooMany(fmt.Sprintf("%d tokens from %s were refused within a minute, which is the limit", a.most, address), int64(a.most), wait)
	}
	b.left--
	return func(good, bad bool) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if !bad {
			b.left++ // it is nobody's guess
		}
		if good {
			a.known = roomIn(a.known, mostKnown)
			a.known[sum] = struct{}{}
		}
	}, nil
}

// bucket returns that of an address as of now. The caller holds the lock.
func (a *attempts) bucket(address string, now time.Time) *bucket {
	b := a.by[address]
	if b == nil {
		b = &bucket{left: float64(a.most), at: now}
		a.by = roomIn(a.by, mostAddresses)
		a.by[address] = b
	}
	b.left = min(float64(a.most), b.left+float64(a.most)*now.Sub(b.at).Minutes())
	b.at = now
	return b
}

// roomIn returns a map that has room for one more.
func roomIn[K comparable, V any](m map[K]V, most int) map[K]V {
	if m == nil {
		m = make(map[K]V)
	}
	for key := range m {
		if len(m) < most {
			break
		}
		delete(m, key)
	}
	return m
}

// addressOf is where a request comes from: an address, or of IPv6 the network that one site has.
func addressOf(r *http.Request, forwarded bool) string {
	text := r.RemoteAddr
	if forwarded {
		if all := strings.Join(r.Header["X-Forwarded-For"], ","); all != "" {
			text = strings.TrimSpace(all[strings.LastIndexByte(all, ',')+1:]) // the others are what the client says
		}
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		withPort, err := netip.ParseAddrPort(text)
		if err != nil {
			return text
		}
		addr = withPort.Addr()
	}
	if addr = addr.Unmap().WithZone(""); addr.Is6() && !addr.IsLoopback() {
		network, _ := addr.Prefix(64) // is short enough
		return network.String()
	}
	return addr.String()
}
