//go:build linux

package process_test

import (
	"testing"

	"github.com/wsproxy/wsproxy/internal/proxytest"
	"github.com/wsproxy/wsproxy/internal/wstest"
)

func TestChild(t *testing.T) {
	proxytest.PlayRole(t, map[string]proxytest.Role{
		"proxy":     playProxy,
		"echo":      playEcho,
		"bystander": playBystander,
		"internet":  playInternet,
		"service":   playService,
		"attackers": playAttackers,
		"talkers":   playTalkers,
		"crowd":     playCrowd,
		"remote":    playRemote,
	})
}

// playEcho is the role of a backend.
func playEcho(t *testing.T) map[string]proxytest.Command {
	url := wstest.StartEcho(t)
	return map[string]proxytest.Command{"url": func(...string) any { return url }}
}

// playBystander is the role of a process that does nothing.
func playBystander(*testing.T) map[string]proxytest.Command { return nil }
