// Package proxytest helps to test a whole proxy: it starts proxies, servers and
// backends, opens tunnels, and checks what came. The peers are those of
// internal/wstest.
//
// It is for tests in packages of their own, and imports the package that they test.
package proxytest
