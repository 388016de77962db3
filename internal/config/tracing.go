package config

import (
	"net"
	"strconv"
)

// Tracing says where traces of resolutions go.
type Tracing struct {
	// Endpoint is the host and port of a collector (OTLP over gRPC).
	Endpoint string
	// Insecure is without TLS.
	Insecure bool
	// RootCAs are the authorities for the collector's certificate, in PEM; those of
	// the system when empty.
	RootCAs []byte
	// OneIn is how many resolutions there are for each that is traced.
	OneIn int
}

// otlpPort is the port of OTLP over gRPC.
const otlpPort = 4317

// endpointForm is a host, by name or address, with a port or that of OTLP.
var endpointForm = scalar{what: "host, port " + strconv.Itoa(otlpPort), pattern: `^(\[[0-9a-fA-F:.]+\]|[0-9A-Za-z.-]+|[0-9a-fA-F:.]+)(:[0-9]{1,5})?$`}

// tracing reads tracing; nil without it.
func (v value) tracing() *Tracing {
	o, ok := v.object()
	if !ok {
		return nil
	}
	t := &Tracing{Endpoint: o.need("endpoint", "the host and port of a collector").endpoint()}
	insecure, ca := o.get("insecure"), o.get("ca_file")
	t.Insecure = insecure.boolean(false)
	t.RootCAs = inPEM(ca.certificates())
	if t.Insecure && ca.given() {
		o.fail(ca.key, "found ca_file with insecure: true, which shows no certificate")
	}
	t.OneIn = int(o.get("one_in").integer(1, 1_000_000, 1))
	o.end()
	return t
}

// endpoint reads a host with or without a port.
func (v value) endpoint() string {
	const want = "a host with or without a port, such as 127.0.0.1:4317 or otel.example.net"
	v.form.is(endpointForm)
	s, ok := v.text(want)
	if !ok {
		return ""
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, strconv.Itoa(otlpPort)
		if n := len(s); n > 2 && s[0] == '[' && s[n-1] == ']' {
			host = s[1 : n-1]
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	bad := false
	for _, c := range host {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		bad = bad || !letter && c != '.' && c != '-' && c != ':'
	}
	if err != nil || n == 0 || host == "" || bad {
		v.fail("found %q, expected %s", s, want)
		return ""
	}
	return net.JoinHostPort(host, port)
}
