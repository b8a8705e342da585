//go:build race

package wsproxy_test

const isRace = true
