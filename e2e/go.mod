module github.com/wsproxy/wsproxy/e2e

go 1.26.0

replace github.com/wsproxy/wsproxy => ../

require (
	github.com/coder/websocket v1.8.15
	github.com/wsproxy/wsproxy v0.0.0-00010101000000-000000000000
)

require (
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)
