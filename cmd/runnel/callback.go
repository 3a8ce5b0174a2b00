package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/runnelhq/runnel"
)

// callbacks decides where receivers of webhooks are told to call back, with the token of the wake. A request may
// say anything about the host that it is for, so without --base-url only a name is believed that leads here
// whoever says it: one of this machine, one of its addresses, that of --addr, or one that the certificate is for.
type callbacks struct {
	base     string // of the streams, by --base-url; empty for what requests say
	believes bool   // a proxy says where it was asked
	host     string // of --addr
	leaf     *x509.Certificate
}

func (c *serveCmd) newCallbacks() (callbacks, error) {
	b := callbacks{believes: c.TrustForwarded}
	if c.BaseURL != "" {
		b.base = strings.TrimSuffix(c.BaseURL, "/") + "/v1/stream"
	}
	if host, _, err := net.SplitHostPort(c.Addr); err == nil {
		b.host = strings.ToLower(host)
	}
	if c.TLSCert != "" {
		certificate, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			return b, fmt.Errorf("tls-cert: %w", err)
		}
		b.leaf = certificate.Leaf
	}
	return b, nil
}

// check returns why a webhook subscription must not be made by a request that came to a URL.
func (b *callbacks) check(asked string) error {
	if b.base != "" || b.believes {
		return nil
	}
	u, err := url.Parse(asked)
	if err == nil && b.leadsHere(hostOf(u.Host)) {
		return nil
	}
	return &runnel.InvalidError{What: "webhook subscription", Rule: fmt.Sprintf(
		"would have receivers call back below %.200q, which only the request says; serve with --base-url and the URL that they reach the server at", asked)}
}

func (b *callbacks) leadsHere(host string) bool {
	switch {
	case host == "":
		return false
	case isThisMachine(host), host == b.host:
		return true
	case b.leaf != nil && b.leaf.VerifyHostname(host) == nil:
		return true
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Unmap() == addr.Unmap() {
			return true
		}
	}
	return false
}
