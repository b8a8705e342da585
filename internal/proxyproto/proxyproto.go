// Package proxyproto writes headers of version 2 of the PROXY protocol. Such a header is the
// beginning of a connection, and has the addresses of the client for which a proxy makes it.
//
// https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt, section 2.2
package proxyproto

import (
	"encoding/binary"
	"net/netip"
)

// "The binary header format starts with a constant 12 bytes block containing the protocol
// signature"
const signature = "\r\n\r\n\x00\r\nQUIT\n"

// Version and command: the highest four bits are the version, "it must always be sent as \x2".
const (
	local = 0x20 // "the connection was established on purpose by the proxy without being relayed"
	proxy = 0x21 // "the connection was established on behalf of another node"
)

// Address family and transport protocol.
const (
	unspec   = 0x00 // "The sender should use this family when sending LOCAL commands"
	tcpOver4 = 0x11 // "TCP over IPv4"
	tcpOver6 = 0x21 // "TCP over IPv6"
)

// Append appends to dst the header of a connection that is made for the client at source, which
// has connected to the proxy at dest. The families may differ: then the IPv4 address is written
// as an IPv4-mapped IPv6 address. An IPv4-mapped address counts as the IPv4 address, and a zone
// is not written. A port that is not known is 0.
//
// If one of the addresses is not valid, Append appends the header of [AppendLocal]: the protocol
// has no header with one address.
func Append(dst []byte, source, dest netip.AddrPort) []byte {
	if !source.IsValid() || !dest.IsValid() {
		return AppendLocal(dst)
	}
	from, to := source.Addr().Unmap(), dest.Addr().Unmap()
	if from.Is4() && to.Is4() {
		dst = appendHead(dst, proxy, tcpOver4, 2*4+2*2)
		from4, to4 := from.As4(), to.As4()
		dst = append(append(dst, from4[:]...), to4[:]...)
	} else {
		dst = appendHead(dst, proxy, tcpOver6, 2*16+2*2)
		from16, to16 := from.As16(), to.As16() // of an IPv4 address the IPv4-mapped form
		dst = append(append(dst, from16[:]...), to16[:]...)
	}
	dst = binary.BigEndian.AppendUint16(dst, source.Port())
	return binary.BigEndian.AppendUint16(dst, dest.Port())
}

// AppendLocal appends to dst the header of a connection that the proxy makes on its own behalf,
// such as a health check.
//
// "When a sender presents a LOCAL connection, it should not present any address so it sets this
// field to zero."
func AppendLocal(dst []byte) []byte { return appendHead(dst, local, unspec, 0) }

// appendHead appends all that is before the addresses, which have length bytes.
func appendHead(dst []byte, command, family byte, length uint16) []byte {
	dst = append(append(dst, signature...), command, family)
	return binary.BigEndian.AppendUint16(dst, length)
}
