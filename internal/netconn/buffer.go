package netconn

import "sync"

const (
	// MaxHead is the longest head that a buffer is asked to begin with.
	MaxHead = 256

	// Buffers, the head included. Most reads get a small one: they return a message
	// or two, and small ones stay in the caches and cost less where the garbage
	// collector empties the pool (0.93 of the CPU per echo of 128 bytes, 0.94 per
	// tunnel opened and closed; 1.00 per byte of messages of 1 MiB).
	smallSize = 4 << 10
	largeSize = 32 << 10 // after a read that filled a small one

	// What a tlsReader holds while it waits; a head must leave some of it. A small
	// buffer instead would be 3.5 KB of the heap more for an idle tunnel. A record
	// that does not fit costs two deadlines more, 0.14 µs, which cannot be told from
	// the noise in what it costs to pass one on (0.95 to 1.07 at 1,000 bytes and at
	// 16 KiB), and neither can larger ones from this one.
	waitSize = 512
)

// A Buffer holds bytes that were read. It comes from a pool, and goes back there
// with Free.
type Buffer struct {
	pool *bufferPool
	mem  []byte
	len  int
}

// Bytes returns what the buffer holds. It is valid until Free.
func (b *Buffer) Bytes() []byte { return b.mem[:b.len] }

// Free gives the buffer back. It must not be used afterwards.
func (b *Buffer) Free() { b.pool.Put(b) }

// space returns where to read to.
func (b *Buffer) space() []byte { return b.mem[b.len:] }

// extend takes n bytes of space as read.
func (b *Buffer) extend(n int) { b.len += n }

// A bufferPool holds plain memory only, so that it may be shared by all proxies
// of a process and by all bubbles of its tests.
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
