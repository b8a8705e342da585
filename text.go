package wsproxy

// In JSON, and in the log lines of a program, the values of this file are the texts that their
// String methods return.

// MarshalText returns the ID.
func (b *Backend) MarshalText() ([]byte, error) { return []byte(b.id), nil }

// MarshalText returns the text of String.
func (s BackendState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalText returns the text of String.
func (c Cause) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// MarshalText returns the text of String.
func (e Engine) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// MarshalText returns the text of String.
func (f Flag) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// MarshalText returns the text of String.
func (r ProbeResult) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// MarshalText returns the text of String.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// MarshalText returns the text of String.
func (s Side) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
