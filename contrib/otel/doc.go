// Package wsotel traces and measures a [wsproxy.Proxy] with OpenTelemetry.
//
//	instrumented, err := wsotel.New(proxy, wsotel.Options{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	defer instrumented.Close()
//	http.Handle("/ws", instrumented)
//
// # Traces
//
// Each upgrade has a span, wsproxy.upgrade. It begins when the handler is called, and ends when
// the client has been sent its 101, or is refused: not with the tunnel, which may live for days.
// The backend gets its traceparent, so that the backend's spans are beneath it. If a
// backend failed, each attempt is an event in it.
//
// Behind a middleware that has begun a span, such as otelhttp, the span is internal and a child of
// that one. Otherwise it is the span of the server, and continues the traceparent of the request.
//
// A tunnel has two spans more, without a duration: wsproxy.tunnel.opened and wsproxy.tunnel.closed.
// They are children of the upgrade's span, so that a sampler decides the same about all three, and
// each has a link to it. A tunnel whose upgrade was not sampled has neither, and costs no memory.
//
// # Metrics
//
// The metrics are those of package wsproxymetrics, by the same names. They are read once for each
// collection. Four histograms are recorded as things happen: those of handshakes, of the phases of
// an upgrade, of waiting, and of tunnels.
//
// README.md has a complete program and tables of the attributes.
package wsotel
