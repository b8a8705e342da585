package netconn

import "sync"

const (
	// MaxHead is the length of the longest head of a buffer.
	MaxHead = 256

	// Sizes of buffers, including the head. Most reads return one or two messages
	// and use a small buffer. Small buffers stay in the CPU's caches, and cost less
	// when the garbage collector has emptied the pool (0.93 of the CPU per echo of
	// 128 bytes, 0.94 per tunnel opened and closed; 1.00 per byte of messages of
	// 1 MiB).
	smallSize = 4 << 10
	largeSize = 32 << 10 // after a read that filled a small buffer

	// waitSize is the size of a tlsReader's buffer while it waits. It must be
	// larger than MaxHead. With a small buffer in its place, an idle tunnel would
	// use 3.5 KB more of the heap. A record that does not fit costs two more calls
	// of SetReadDeadline, 0.14 µs. That is within the noise of the cost to relay a
	// record (0.95 to 1.07 at 1,000 bytes and at 16 KiB), and so is the gain of a
	// larger waitSize.
	waitSize = 512
)

// A Buffer contains bytes that were read. It comes from a pool, and Free returns it
// to the pool.
type Buffer struct {
	pool *bufferPool
	mem  []byte
	len  int
}

// Bytes returns the buffer's bytes. The result is valid until Free.
func (b *Buffer) Bytes() []byte { return b.mem[:b.len] }

// Free returns the buffer to its pool. It must not be used afterwards.
func (b *Buffer) Free() { b.pool.Put(b) }

// space returns the unused part of the buffer, for the next read.
func (b *Buffer) space() []byte { return b.mem[b.len:] }

// extend adds the first n bytes of space to the buffer's bytes.
func (b *Buffer) extend(n int) { b.len += n }

// A bufferPool contains plain memory only, so that all proxies of a process, and
// all synctest bubbles of its tests, can share it.
type bufferPool struct{ sync.Pool }

var (
	largeBuffers = newBufferPool(largeSize)
	smallBuffers = newBufferPool(smallSize)
	waitBuffers  = newBufferPool(waitSize)
)

func newBufferPool(size int) bufferPool {
	return bufferPool{sync.Pool{New: func() any { return &Buffer{mem: make([]byte, size)} }}}
}

// get returns a buffer that begins with a copy of head.
func (p *bufferPool) get(head []byte) *Buffer {
	b := p.Get().(*Buffer)
	b.pool = p
	b.len = copy(b.mem, head)
	return b
}
