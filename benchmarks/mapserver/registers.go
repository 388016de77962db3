package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/eidolon-lisp/eidolon/internal/udp"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/auth"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// registrants is how many xTRs register, each its own EID-prefix.
const registrants = 1000

// registers is the workload of Map-Registers of registrants xTRs in turns, each
// with two locators. Every 16th Map-Notify has its authentication checked.
type registers struct {
	port   uint16
	key    auth.Key
	base   uint64 // the nonce of request 0, above all that were used before
	change bool   // each one registers other locators than the last
	// messages are the encoded Map-Registers of each xTR, for each of the two
	// sets of locators.
	messages [registrants][2][]byte
	records  [registrants][2][]byte
	buffers  [2 * burst][512]byte
	next     int
}

// eidOfRegistrant is inside registerable.
func eidOfRegistrant(i int) mapping.EID {
	return mapping.MustParseEID(fmt.Sprintf("10.%d.%d.0/24", 64+i/256, i%256))
}

// registerable is the EID-prefix that a site of the map-server must have, with
// more-specifics accepted.
const registerable = "10.64.0.0/10"

func newRegisters(key auth.Key, change bool, port uint16, base uint64) (*registers, error) {
	w := &registers{port: port, key: key, base: base, change: change}
	for i := range registrants {
		for v := range 2 {
			rec := &mapping.Record{EID: eidOfRegistrant(i), TTL: 1440}
			for l := range 2 {
				rec.Locators = append(rec.Locators, mapping.MakeLocator(netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + 2*l + v)}), 1, 50))
			}
			recs, err := wire.NewRecords(rec)
			if err != nil {
				return nil, err
			}
			m := wire.MapRegister{ProxyReply: true, WantNotify: true, Auth: key.Template(), Records: recs, HasXTRID: true}
			binary.BigEndian.PutUint32(m.XTRID[:], uint32(i+1))
			if w.messages[i][v], err = m.AppendBinary(nil); err != nil {
				return nil, err
			}
			if w.records[i][v], err = recs.AppendBinary(nil); err != nil {
				return nil, err
			}
		}
	}
	return w, nil
}

// which returns the xTR that request seq is of, and the set of locators.
func (w *registers) which(seq uint64) (i, v int) {
	i = int(seq % registrants)
	if w.change {
		v = int(seq / registrants % 2)
	}
	return i, v
}

func (w *registers) request(seq uint64, m *udp.Message) {
	i, v := w.which(seq)
	b := append(w.buffers[w.next][:0], w.messages[i][v]...)
	w.next = (w.next + 1) % len(w.buffers)
	binary.BigEndian.PutUint64(b[4:], w.base+seq)
	if err := auth.Sign(b, w.key); err != nil {
		panic(err) // it was made for this key
	}
	m.Payload = b
	m.Src = netip.AddrPortFrom(sourceOf(seq), w.port)
}

func (w *registers) match(b []byte) (uint64, bool) {
	if len(b) < 12 || wire.Type(b[0]>>4) != wire.TypeMapNotify {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[4:]) - w.base, true
}

func (w *registers) check(seq uint64, b []byte) error {
	i, v := w.which(seq)
	if !bytes.Contains(b, w.records[i][v]) {
		return errors.New("a Map-Notify that does not hold what was registered")
	}
	if seq%16 == 0 {
		if _, err := auth.Verify(b, []auth.Key{w.key}, auth.SHA1); err != nil {
			return fmt.Errorf("a Map-Notify: %w", err)
		}
	}
	return nil
}
