//go:build linux && !race

package epoll

func noteRead(fd int, p []byte, n int) {}

func noteWrite(p []byte) {}
