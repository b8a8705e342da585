// Package epoll is what an event loop needs of Linux: a [Poller] that waits for
// many sockets at once, a [Socket] that reads and writes without waiting, and a
// [Pipe] through which the kernel moves bytes from one socket to another.
//
// It is the only package that makes system calls on descriptors of its own. It does
// not know what the bytes mean, and starts no goroutine. Everywhere but on Linux it
// is empty.
package epoll
