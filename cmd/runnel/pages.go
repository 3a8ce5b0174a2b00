package main

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/runnelhq/runnel/wire"
)

// pages keeps the pages of strangers away from a server that asks nobody for a token: it trusts this machine,
// and a browser on it runs what comes from anywhere. A page says where it is from; one that has the name of its
// own host point at this machine is known by that name.
type pages struct {
	hosts   []string // that the server goes by, besides those of this machine
	origins []string // that are let in; none: those of this machine
}

// newPages returns nil if there is nobody to keep away: where tokens are needed, pages have none, and an open
// server is for everybody.
func (c *serveCmd) newPages() *pages {
	if c.controlled() || c.Open {
		return nil
	}
	p := &pages{origins: c.AllowOrigin}
	if host, _, err := net.SplitHostPort(c.Addr); err == nil && host != "" {
		p.hosts = append(p.hosts, strings.ToLower(host))
	}
	if u, err := url.Parse(c.BaseURL); err == nil && u.Host != "" {
		p.hosts = append(p.hosts, strings.ToLower(u.Hostname()))
	}
	return p
}

// before returns a handler that answers the requests of other pages, and under other names, with 403. Browsers
// that ask whether a page may ask are answered without its origin, which is how they are told that it may not.
func (p *pages) before(next http.Handler) http.Handler {
	if p == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := p.check(r)
		switch {
		case err == nil:
			next.ServeHTTP(w, r)
		case r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "":
			w.Header().Set("Access-Control-Allow-Headers", "*")
			w.Header().Set("Vary", "Origin")
			w.WriteHeader(http.StatusNoContent)
		default:
			wire.Refuse(w, err)
		}
	})
}

func (p *pages) check(r *http.Request) error {
	forbidden := func(format string, args ...any) error {
		return &wire.Error{Status: http.StatusForbidden, Detail: wire.Detail{Code: wire.CodeForbidden, Message: fmt.Sprintf(format, args...)}}
	}
	if host := hostOf(r.Host); host != "" && !isThisMachine(host) && !slices.Contains(p.hosts, host) {
		return forbidden("a server without tokens answers to localhost and to the host of --base-url, not to %.200q", host)
	}
	for _, origin := range r.Header["Origin"] {
		if !p.allows(origin, r) {
			return forbidden("a server without tokens is not for pages of %.200q; --allow-origin lets them in", origin)
		}
	}
	return nil
}

// allows tells whether a page of an origin may use the server.
func (p *pages) allows(origin string, r *http.Request) bool {
	if slices.Contains(p.origins, "*") || slices.Contains(p.origins, origin) {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false // "null", of a page that may be anybody's
	}
	if strings.EqualFold(u.Host, r.Host) {
		return true // its own
	}
	return len(p.origins) == 0 && isThisMachine(strings.ToLower(u.Hostname()))
}

// hostOf is the name in a host and port.
func hostOf(hostPort string) string {
	u := url.URL{Host: hostPort}
	return strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
}

// isThisMachine tells whether a name always means this machine. Source: RFC 6761, section 6.3.
func isThisMachine(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}
