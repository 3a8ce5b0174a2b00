package webhook

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/runnelhq/runnel"
)

// MaxURLBytes is the longest URL of a webhook, in bytes.
const MaxURLBytes = 2048

// PolicyConfig says where webhooks may be sent. With the zero PolicyConfig that is any public address, by
// https, on port 443 and those from 1024 on.
type PolicyConfig struct {
	// Allow lists what may be sent to although it is inside a network: addresses ("10.1.2.3"), ranges
	// ("10.0.0.0/8"), host names ("hooks.internal"), and all names below one ("*.svc.cluster.local"). A
	// name may not resolve to link-local, multicast or metadata addresses; those are allowed by address only.
	Allow []string
	// Exclusive refuses everything that Allow does not list.
	Exclusive bool
	// Ports, if not empty, are the only ports, for allowed targets too.
	Ports []uint16
	// Development admits the local machine: the host "localhost" and loopback addresses, on any port, by
	// http too. Source: PROTOCOL.md, section 6.2.
	Development bool
	// PlainAllowed admits http, in the place of https, to what Allow lists by address or name.
	PlainAllowed bool
}

// Policy decides where webhooks may be sent. It is judged twice: when a URL is given, by its text, and when a
// connection is made, by the address that the name has resolved to.
type Policy struct {
	cfg      PolicyConfig
	prefixes []netip.Prefix
	hosts    []string // in lower case; with a leading dot, what ends so
}

// NewPolicy returns the policy of a configuration. It fails if an entry of Allow is no address, range or name.
func NewPolicy(cfg PolicyConfig) (*Policy, error) {
	p := &Policy{cfg: cfg}
	p.cfg.Ports = slices.Clone(cfg.Ports)
	for _, entry := range cfg.Allow {
		entry = strings.ToLower(strings.TrimSpace(entry))
		prefix, err := netip.ParsePrefix(entry)
		if err == nil {
			p.prefixes = append(p.prefixes, prefix.Masked())
			continue
		}
		if addr, err := netip.ParseAddr(strings.Trim(entry, "[]")); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			p.prefixes = append(p.prefixes, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		name, below := strings.CutPrefix(entry, "*")
		if rule := nameRule(strings.TrimPrefix(name, ".")); rule != "" || below && !strings.HasPrefix(name, ".") {
			return nil, fmt.Errorf("webhook: allowed target %q is no address, no range and no host name", entry)
		}
		p.hosts = append(p.hosts, name)
	}
	return p, nil
}

// URLError says which rule a webhook's URL breaks. It matches runnel.ErrInvalid.
type URLError struct {
	URL string
	// Rule completes "the webhook URL …".
	Rule string
}

func (e *URLError) Error() string { return "webhook: the URL " + quote(e.URL) + " " + e.Rule }

func (e *URLError) Is(target error) bool { return target == runnel.ErrInvalid }

// CheckURL says whether a webhook may have this URL, and returns it with scheme and host in lower case. A name
// is not resolved: what it stands for is judged whenever it is connected to. The error is a [*URLError].
func (p *Policy) CheckURL(raw string) (string, error) {
	u, rule := p.parse(raw)
	if rule != "" {
		return "", &URLError{URL: raw, Rule: rule}
	}
	return u.String(), nil
}

// parse reads a URL and returns the rule that it breaks, if any.
func (p *Policy) parse(raw string) (*url.URL, string) {
	if rule := textRule(raw); rule != "" {
		return nil, rule
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, "is not a URL"
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	host := u.Hostname()
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, "must begin with https://"
	case u.Opaque != "" || host == "":
		return nil, "must name a host"
	case u.User != nil:
		return nil, "must not hold a user name or password"
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return nil, "must not have a fragment"
	}
	local := p.cfg.Development && isLocal(host)
	if u.Scheme != "https" && !local && !(p.cfg.PlainAllowed && p.lists(host)) {
		return nil, "must begin with https://" + p.developmentHint(host)
	}
	port, rule := portOf(u)
	if rule == "" && !local {
		rule = p.portRule(port)
	}
	if rule == "" {
		rule = p.hostRule(host)
	}
	return u, rule
}

func textRule(raw string) string {
	switch {
	case len(raw) > MaxURLBytes:
		return fmt.Sprintf("has %d bytes, the limit is %d", len(raw), MaxURLBytes)
	case strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return "must be printable ASCII without spaces; write a name in its xn-- form and escape the rest"
	case strings.ContainsAny(raw, `\`+"`<>\"{}|^"):
		return `must not contain any of \ < > " { } | ^ or a backtick`
	}
	return ""
}

func (p *Policy) developmentHint(host string) string {
	if isLocal(host) {
		return "; http to the local machine is for development only, and not enabled"
	}
	return ""
}

func portOf(u *url.URL) (uint16, string) {
	text := u.Port()
	if text == "" {
		if strings.HasSuffix(u.Host, ":") {
			return 0, "must have a number after the colon of its host"
		}
		if u.Scheme == "http" {
			return 80, ""
		}
		return 443, ""
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, "must have a port between 1 and 65535"
	}
	return uint16(port), ""
}

func (p *Policy) portRule(port uint16) string {
	switch {
	case len(p.cfg.Ports) > 0 && !slices.Contains(p.cfg.Ports, port):
		return fmt.Sprintf("has port %d; the ports allowed are %v", port, p.cfg.Ports)
	case len(p.cfg.Ports) == 0 && port != 443 && port < 1024:
		return fmt.Sprintf("has port %d; below 1024 only 443 is allowed", port)
	}
	return ""
}

// hostRule judges a host as it is written, without resolving it.
func (p *Policy) hostRule(host string) string {
	if addr, err := netip.ParseAddr(host); err == nil {
		return p.addrRule(host, addr)
	}
	name := strings.TrimSuffix(host, ".")
	if rule := nameRule(name); rule != "" {
		return rule
	}
	switch {
	case p.cfg.Development && isLocal(host), p.allowsHost(name):
		return ""
	case p.cfg.Exclusive && len(p.prefixes) == 0:
		return "has a host that is not one of those allowed"
	case name == "localhost" || strings.HasSuffix(name, ".localhost"):
		return "must not name the local machine"
	case !strings.Contains(name, "."):
		return "must have a fully qualified host name"
	}
	for _, suffix := range []string{".internal", ".local", ".lan", ".home.arpa", ".intranet", ".corp", ".home"} {
		if strings.HasSuffix(name, suffix) {
			return "must not name a host inside a network, which " + suffix + " is for"
		}
	}
	return ""
}

// nameRule checks that a name is one of DNS, and none that a resolver could take for an address, such as
// 127.1 or 0x7f000001.
func nameRule(name string) string {
	if name == "" || len(name) > 253 {
		return "must have a host name of 1 to 253 bytes"
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		last = label
		ok := label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
		if !ok || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return "must have a host that is a DNS name, an IPv4 address of four decimal numbers, or an IPv6 address in brackets"
		}
	}
	if last[0] >= '0' && last[0] <= '9' {
		return "must write an IPv4 address as four decimal numbers"
	}
	return ""
}

// isLocal is what the exception for development is about.
func isLocal(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Zone() == "" && !addr.Is4In6() && addr.IsLoopback()
}

// lists tells whether a host, as it is written, is one that is allowed.
func (p *Policy) lists(host string) bool {
	if addr, err := netip.ParseAddr(host); err == nil {
		return slices.ContainsFunc(p.prefixes, func(allowed netip.Prefix) bool { return allowed.Contains(addr.Unmap()) })
	}
	return p.allowsHost(strings.TrimSuffix(host, "."))
}

func (p *Policy) allowsHost(name string) bool {
	return slices.ContainsFunc(p.hosts, func(h string) bool {
		return h == name || strings.HasPrefix(h, ".") && strings.HasSuffix(name, h)
	})
}

// addrRule judges an address that a host has. For a URL with an address as its host the two are the same.
func (p *Policy) addrRule(host string, addr netip.Addr) string {
	if addr.Zone() != "" {
		return "must not have an address with a zone"
	}
	addr = addr.Unmap()
	if slices.ContainsFunc(p.prefixes, func(allowed netip.Prefix) bool { return allowed.Contains(addr) }) {
		return ""
	}
	if p.cfg.Development && isLocal(host) && addr.IsLoopback() {
		return ""
	}
	allowed := p.allowsHost(strings.TrimSuffix(host, "."))
	found := blockOf(addr)
	switch {
	case found != nil && !(allowed && !found.never):
		return fmt.Sprintf("must not lead to %s, which is %s", addr, found.what)
	case p.cfg.Exclusive && !allowed:
		return fmt.Sprintf("leads to %s, which is not one of the targets allowed", addr)
	}
	return ""
}

// AddressError says that a connection to the address of a webhook's host was refused, and by which rule.
type AddressError struct {
	Host    string
	Address string
	Rule    string // completes "the webhook URL …"
}

func (e *AddressError) Error() string { return "webhook: host " + quote(e.Host) + " " + e.Rule }

// control returns what a dialer asks before it connects a socket, for a target of this host. It sees the
// address that is really connected to, so a name that resolves to something else each time gains nothing.
func (p *Policy) control(host string) func(context.Context, string, string, syscall.RawConn) error {
	return func(_ context.Context, network, address string, _ syscall.RawConn) error {
		if network != "tcp4" && network != "tcp6" {
			return &AddressError{Host: host, Address: address, Rule: "must be reached by TCP"}
		}
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return errors.Join(&AddressError{Host: host, Address: address, Rule: "has no address"}, err)
		}
		rule := p.addrRule(host, ap.Addr())
		if rule == "" && !(p.cfg.Development && isLocal(host)) {
			rule = p.portRule(ap.Port())
		}
		if rule != "" {
			return &AddressError{Host: host, Address: address, Rule: rule}
		}
		return nil
	}
}

// dial connects to a host and port, if every rule lets it.
func (p *Policy) dial(dialer net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		dialer := dialer
		dialer.ControlContext = p.control(strings.ToLower(host))
		return dialer.DialContext(ctx, network, address)
	}
}

// quote shows text from outside in a message: escaped, and cut.
func quote(s string) string {
	const most = 128
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
