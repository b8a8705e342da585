package proxytest

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/wsproxy/wsproxy"
)

// A LogBook stores the log of a proxy as text.
type LogBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Option makes a proxy log into l, at all levels.
func (l *LogBook) Option() wsproxy.Option { return wsproxy.WithLogger(l.Logger()) }

// Logger returns a logger that logs into l, at all levels.
func (l *LogBook) Logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Write implements [io.Writer].
func (l *LogBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// Lines returns the lines that contain all the words.
func (l *LogBook) Lines(words ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.text.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			found = append(found, line)
		}
	}
	return found
}
