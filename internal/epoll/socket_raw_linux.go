//go:build !race && !386 && !s390x

package epoll

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"
)

// Raw calls skip the scheduler's bookkeeping, which is for calls that may wait: none
// of these does. One that did would stop the whole program, so that those that could
// are told not to, whatever others have made of the socket meanwhile.
//
// Within a machine a connect does the work of both ends, and so does a close. That
// takes longer than the scheduler lets a system call take before it hands the
// processor to another thread: the thread that looks for such calls took 9 % of the
// CPU of a program that opens and closes tunnels, and 5 % with connects that it does
// not see.
//
// Recvfrom and sendto are read and write without the detour over the file system:
// 0.95 of their CPU for a message that is relayed.

func socket(family, kind int) (int, syscall.Errno) {
	fd, _, errno := syscall.RawSyscall(syscall.SYS_SOCKET, uintptr(family), uintptr(kind), 0)
	return int(fd), errno
}

func connect(fd int, addr netip.AddrPort) syscall.Errno {
	if a := addr.Addr(); a.Is4() {
		sa := syscall.RawSockaddrInet4{Family: syscall.AF_INET, Port: networkOrder(addr.Port()), Addr: a.As4()}
		_, _, errno := syscall.RawSyscall(syscall.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
		return errno
	}
	sa := syscall.RawSockaddrInet6{Family: syscall.AF_INET6, Port: networkOrder(addr.Port()), Addr: addr.Addr().As16()}
	_, _, errno := syscall.RawSyscall(syscall.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa))
	return errno
}

// localAddr returns the address of a TCP socket.
func localAddr(fd int) (netip.AddrPort, syscall.Errno) {
	var sa syscall.RawSockaddrInet6 // has room for that of IPv4
	size := uint32(unsafe.Sizeof(sa))
	_, _, errno := syscall.RawSyscall(syscall.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&sa)), uintptr(unsafe.Pointer(&size)))
	if sa.Family == syscall.AF_INET {
		sa := (*syscall.RawSockaddrInet4)(unsafe.Pointer(&sa))
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), networkOrder(sa.Port)), errno
	}
	return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), networkOrder(sa.Port)), errno
}

// networkOrder returns a number whose bytes in memory are those of port, the high
// one first.
func networkOrder(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}

func recvfrom(fd int, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), syscall.MSG_DONTWAIT, 0, 0)
	return int(n), errno
}

func sendto(fd int, p []byte, flags int) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), uintptr(flags|syscall.MSG_DONTWAIT), 0, 0)
	return int(n), errno
}

func shutdown(fd, how int) syscall.Errno {
	_, _, errno := syscall.RawSyscall(syscall.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
	return errno
}

func closeSocket(fd int) syscall.Errno {
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0)
	return errno
}
