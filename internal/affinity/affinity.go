// Package affinity signs and verifies what binds a client to a backend: the value of a cookie.
//
// The value is the base64url form of
//
//	version   1 byte
//	expiry    6 bytes, seconds since 1970
//	hash     16 bytes, of the backend's ID
//	MAC      16 bytes, of the three
//
// Both the hash and the MAC are made with keys that are derived from a secret and from the
// name of the cookie. So the value does not tell the ID, two cookies cannot be exchanged, and
// a client cannot choose its backend.
//
// Times are seconds since 1970: programs that share a secret agree about them.
package affinity

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"time"
)

// ValueLen is the length of each value.
const ValueLen = 52

const (
	version    = 1
	hashLen    = 16
	bindingLen = 1 + 6 + hashLen
	rawLen     = bindingLen + 16 // a multiple of 3: base64 has no bits to spare, so no value has a second form
)

// never is the expiry of a binding that does not expire.
const never = 1<<48 - 1

// A Signer makes values. It does not change.
type Signer struct {
	keys []key // the first one signs, all of them verify
	ttl  int64 // seconds; 0: bindings do not expire
}

// New returns a Signer for the cookie of that name. There is at least one secret. The bindings
// expire after ttl, in whole seconds and one at least, or never if it is negative.
func New(name string, secrets [][]byte, ttl time.Duration) *Signer {
	s := new(Signer)
	if ttl >= 0 {
		s.ttl = max(int64(ttl/time.Second), 1)
	}
	for _, secret := range secrets {
		s.keys = append(s.keys, newKey(secret, name))
	}
	return s
}

// A Hash is the keyed hash of a backend's ID.
type Hash [hashLen]byte

// Hashes returns the hash of a backend's ID by each of the keys.
func (s *Signer) Hashes(id string) []Hash {
	hashes := make([]Hash, len(s.keys))
	for i := range s.keys {
		hashes[i] = s.keys[i].hash(id)
	}
	return hashes
}

// Sign returns the value that binds a client at now to the backend with these hashes.
func (s *Signer) Sign(hashes []Hash, now int64) string {
	var raw [rawLen]byte
	binary.BigEndian.PutUint64(raw[:], version<<56|uint64(s.expiry(now))<<8)
	copy(raw[bindingLen-hashLen:], hashes[0][:])
	mac := s.keys[0].mac(raw[:bindingLen])
	copy(raw[bindingLen:], mac[:])
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// expiry returns when a binding expires that is made at now.
func (s *Signer) expiry(now int64) int64 {
	if s.ttl == 0 {
		return never
	}
	return min(max(now, 0)+s.ttl, never-1)
}

// isDue reports whether a binding by that key which has not expired is to be made anew at now: half of
// its time is over, or it has more time than a new one, because it was made for another ttl. If
// bindings do not expire, it is also due if the key is not the one that signs, so that its
// secret can be removed some day.
func (s *Signer) isDue(key int, expiry, now int64) bool {
	if s.ttl == 0 {
		return expiry != never || key > 0
	}
	return expiry-now < s.ttl-s.ttl/2 || expiry-now > s.ttl
}

// A Table finds backends by values. It does not change once it is in use.
type Table[B any] struct {
	signer *Signer
	byHash []map[Hash]B // by the keys of the signer
}

// NewTable returns a Table without backends. The size is how many are expected.
func NewTable[B any](s *Signer, size int) *Table[B] {
	t := &Table[B]{signer: s}
	for range s.keys {
		t.byHash = append(t.byHash, make(map[Hash]B, size))
	}
	return t
}

// Add adds the backend that has these hashes.
func (t *Table[B]) Add(hashes []Hash, b B) {
	for i, h := range hashes {
		t.byHash[i][h] = b
	}
}

// Find returns the backend that a client with the value is bound to at now, and whether it is
// to be given a new value. It returns false if the value is not one of the signer, is about a
// backend that is not in the table, or has expired. A nil table has no backends.
func (t *Table[B]) Find(value string, now int64) (b B, isDue, ok bool) {
	if t == nil {
		return b, false, false
	}
	var raw [rawLen]byte
	expiry, ok := decode(&raw, value, now)
	if !ok {
		return b, false, false
	}
	h := Hash(raw[bindingLen-hashLen : bindingLen])
	for i := range t.byHash {
		if found, isKnown := t.byHash[i][h]; isKnown && t.signer.keys[i].hasSigned(&raw) {
			return found, t.signer.isDue(i, expiry, now), true
		}
	}
	return b, false, false
}

// HasSigned reports whether the value is one of the signer that has not expired at now, whatever
// its backend: one that no table has was removed.
func (s *Signer) HasSigned(value string, now int64) bool {
	var raw [rawLen]byte
	if _, ok := decode(&raw, value, now); !ok {
		return false
	}
	for i := range s.keys {
		if s.keys[i].hasSigned(&raw) {
			return true
		}
	}
	return false
}

// decode decodes a value. It returns false if the value has another form, or has expired at now.
func decode(raw *[rawLen]byte, value string, now int64) (expiry int64, ok bool) {
	if len(value) != ValueLen {
		return 0, false
	}
	var text [ValueLen]byte // does not allocate
	copy(text[:], value)
	if n, err := base64.RawURLEncoding.Decode(raw[:], text[:]); err != nil || n != rawLen {
		return 0, false
	}
	head := binary.BigEndian.Uint64(raw[:])
	expiry = int64(head >> 8 & never)
	return expiry, head>>56 == version && expiry > now
}

// A key is derived from one secret for one cookie.
type key struct {
	forHashes    []byte
	inner, outer [sha256.BlockSize]byte // of the HMAC for values: the key with each of the two pads
}

func newKey(secret []byte, name string) key {
	k := key{forHashes: derive(secret, "wsproxy affinity backend", name)}
	forValues := derive(secret, "wsproxy affinity value", name)
	for i := range k.inner {
		k.inner[i], k.outer[i] = 0x36, 0x5c
	}
	subtle.XORBytes(k.inner[:], k.inner[:], forValues)
	subtle.XORBytes(k.outer[:], k.outer[:], forValues)
	return k
}

// derive returns a key of 32 bytes for one use of a secret.
func derive(secret []byte, use, name string) []byte {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(use + "\x00" + name))
	return m.Sum(nil)
}

func (k *key) hash(id string) Hash {
	m := hmac.New(sha256.New, k.forHashes)
	m.Write([]byte(id))
	return Hash(m.Sum(nil)[:hashLen])
}

// hasSigned reports whether the MAC of a value is one by the key.
func (k *key) hasSigned(raw *[rawLen]byte) bool {
	mac := k.mac(raw[:bindingLen])
	return subtle.ConstantTimeCompare(mac[:], raw[bindingLen:]) == 1
}

// mac returns the first half of the HMAC-SHA-256 of a binding. It does not allocate: with
// [hmac.New] instead it took twice as long.
//
// https://www.rfc-editor.org/rfc/rfc2104#section-2
func (k *key) mac(binding []byte) [rawLen - bindingLen]byte {
	var buf [sha256.BlockSize + sha256.Size]byte
	copy(buf[:], k.inner[:])
	n := copy(buf[sha256.BlockSize:], binding)
	inner := sha256.Sum256(buf[:sha256.BlockSize+n])
	copy(buf[:], k.outer[:])
	copy(buf[sha256.BlockSize:], inner[:])
	outer := sha256.Sum256(buf[:])
	return [rawLen - bindingLen]byte(outer[:])
}
