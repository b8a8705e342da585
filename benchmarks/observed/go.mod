module github.com/wsproxy/wsproxy/benchmarks/observed

go 1.26.0

replace (
	github.com/wsproxy/wsproxy => ../..
	github.com/wsproxy/wsproxy/benchmarks => ../
	github.com/wsproxy/wsproxy/contrib/otel => ../../contrib/otel
	github.com/wsproxy/wsproxy/contrib/prometheus => ../../contrib/prometheus
)

require (
	github.com/prometheus/client_golang v1.25.0
	github.com/wsproxy/wsproxy v0.0.0
	github.com/wsproxy/wsproxy/benchmarks v0.0.0-00010101000000-000000000000
	github.com/wsproxy/wsproxy/contrib/otel v0.0.0-00010101000000-000000000000
	github.com/wsproxy/wsproxy/contrib/prometheus v0.0.0-00010101000000-000000000000
	go.opentelemetry.io/otel v1.47.0
	go.opentelemetry.io/otel/sdk v1.47.0
	go.opentelemetry.io/otel/sdk/metric v1.47.0
)

require (
	github.com/beorn7/perks v1.0.1 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/go-logr/logr v1.4.4 // indirect
	github.com/go-logr/stdr v1.2.2 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	github.com/prometheus/client_model v0.6.3 // indirect
	github.com/prometheus/common v0.72.0 // indirect
	github.com/prometheus/procfs v0.22.0 // indirect
	go.opentelemetry.io/auto/sdk v1.2.1 // indirect
	go.opentelemetry.io/otel/log v1.47.0 // indirect
	go.opentelemetry.io/otel/metric v1.47.0 // indirect
	go.opentelemetry.io/otel/trace v1.47.0 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)
