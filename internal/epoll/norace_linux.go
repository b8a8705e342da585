//go:build linux && !race

package epoll

func noteRead(fd int, p []byte) {}

func noteWrite(p []byte) {}
