module github.com/wsproxy/wsproxy

go 1.26.0 // and 1.27: .ci/run runs the tests with both

require (
	github.com/coder/websocket v1.8.15
	github.com/google/go-cmp v0.7.0
	golang.org/x/net v0.62.0
)

require golang.org/x/text v0.43.0 // indirect
