package webhook

import "net/netip"

// A block is a range of addresses that no webhook is sent to, unless it is allowed by address.
type block struct {
	prefix netip.Prefix
	what   string
	// never is for what even an allowed host name may not resolve to.
	never bool
}

// blocks holds what the registries of special-purpose addresses of IANA do not call globally reachable, and
// addresses under which clouds tell a machine its secrets. Of IPv6, only 2000::/3 is given out at all.
var blocks = []block{
	{netip.MustParsePrefix("0.0.0.0/8"), "the unspecified address or this network", true},
	{netip.MustParsePrefix("10.0.0.0/8"), "a private network", false},
	{netip.MustParsePrefix("100.100.100.200/32"), "a cloud metadata service", true},
	{netip.MustParsePrefix("100.64.0.0/10"), "a carrier-grade NAT", false},
	{netip.MustParsePrefix("127.0.0.0/8"), "a loopback address", false},
	{netip.MustParsePrefix("168.63.129.16/32"), "a cloud metadata service", true},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address, or a cloud metadata service", true},
	{netip.MustParsePrefix("172.16.0.0/12"), "a private network", false},
	{netip.MustParsePrefix("192.0.0.0/24"), "an address for protocols, or a cloud metadata service", true},
	{netip.MustParsePrefix("192.0.2.0/24"), "a documentation address", false},
	{netip.MustParsePrefix("192.88.99.0/24"), "a 6to4 relay", false},
	{netip.MustParsePrefix("192.168.0.0/16"), "a private network", false},
	{netip.MustParsePrefix("198.18.0.0/15"), "a benchmark network", false},
	{netip.MustParsePrefix("198.51.100.0/24"), "a documentation address", false},
	{netip.MustParsePrefix("203.0.113.0/24"), "a documentation address", false},
	{netip.MustParsePrefix("224.0.0.0/4"), "a multicast address", true},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved or broadcast address", true},

	{netip.MustParsePrefix("::/128"), "the unspecified address", true},
	{netip.MustParsePrefix("::1/128"), "a loopback address", false},
	{netip.MustParsePrefix("::/96"), "an IPv4-compatible address", true},
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "an IPv4-translated address", true},
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a local NAT64 network", true},
	{netip.MustParsePrefix("100::/64"), "the discard network", true},
	{netip.MustParsePrefix("2001::/32"), "a Teredo address", true},
	{netip.MustParsePrefix("2001:2::/48"), "a benchmark network", false},
	{netip.MustParsePrefix("2001::/23"), "an address for protocols", true},
	{netip.MustParsePrefix("2001:db8::/32"), "a documentation address", false},
	{netip.MustParsePrefix("2002::/16"), "a 6to4 address", true},
	{netip.MustParsePrefix("3fff::/20"), "a documentation address", false},
	{netip.MustParsePrefix("fd00:ec2::254/128"), "a cloud metadata service", true},
	{netip.MustParsePrefix("fd20:ce::254/128"), "a cloud metadata service", true},
	{netip.MustParsePrefix("fc00::/7"), "a unique local network", false},
	{netip.MustParsePrefix("fe80::/10"), "a link-local address", true},
	{netip.MustParsePrefix("fec0::/10"), "a site-local network", false},
	{netip.MustParsePrefix("ff00::/8"), "a multicast address", true},
}

var (
	global6  = netip.MustParsePrefix("2000::/3")
	nat64    = netip.MustParsePrefix("64:ff9b::/96")
	isatap   = [4]byte{0x00, 0x00, 0x5e, 0xfe}
	isatapGl = [4]byte{0x02, 0x00, 0x5e, 0xfe}
)

// blockOf returns the block that an address is in, or nil for a public one. An address that carries another
// one, to which the network would send, is judged by that.
func blockOf(addr netip.Addr) *block {
	if addr.Zone() != "" {
		return &block{what: "an address with a zone", never: true}
	}
	addr = addr.Unmap()
	if inner, ok := embedded(addr); ok {
		return blockOf(inner)
	}
	for i := range blocks {
		if blocks[i].prefix.Contains(addr) {
			return &blocks[i]
		}
	}
	switch {
	case !addr.IsValid():
		return &block{what: "no address", never: true}
	case addr.Is6() && !global6.Contains(addr):
		return &block{what: "a reserved address", never: true}
	}
	return nil
}

// embedded returns the IPv4 address that a NAT64 gateway or an ISATAP tunnel would send to. Other forms that
// carry an IPv4 address are refused whole.
func embedded(addr netip.Addr) (netip.Addr, bool) {
	if !addr.Is6() {
		return netip.Addr{}, false
	}
	b := addr.As16()
	if id := [4]byte(b[8:12]); !nat64.Contains(addr) && id != isatap && id != isatapGl || !global6.Contains(addr) && !nat64.Contains(addr) {
		return netip.Addr{}, false
	}
	inner := netip.AddrFrom4([4]byte(b[12:16]))
	if !nat64.Contains(addr) && blockOf(inner) == nil {
		// Such a host is also an ordinary one of its own network.
		return netip.Addr{}, false
	}
	return inner, true
}
