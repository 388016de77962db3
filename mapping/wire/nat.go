package wire

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// NAT is the LCAF that tells an xTR in an Info-Reply how a NAT translates it
// (RFC 8060 section 4.4). The mapping system does not store it.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 7    |     Rsvd2     |            Length             |
//	+---------------+---------------+-------------------------------+
//	|       MS UDP Port Number      |      ETR UDP Port Number      |
//	+-------------------------------+-------------------------------+
//	|              AFI              |  Global ETR RLOC Address ...  |
//	+-------------------------------+-------------------------------+
//	|              AFI              |       MS RLOC Address  ...    |
//	+-------------------------------+-------------------------------+
//	|              AFI              | Private ETR RLOC Address ...  |
//	+-------------------------------+-------------------------------+
//	|              AFI              |      RTR RLOC Address  ...    |
//	+-------------------------------+-------------------------------+
//	|              ...              |      RTR RLOC Address  ...    |
//	+-------------------------------+-------------------------------+
type NAT struct {
	MSPort  uint16
	ETRPort uint16 // the translated source port
	// GlobalETR is the translated source address, MS the address that the xTR
	// sent to, PrivateETR the xTR's own.
	GlobalETR, MS, PrivateETR Address
	// RTRs is empty, or holds AFI 0, where there is none.
	RTRs AFIList
}

// Decode reads the payload of an LCAF of type LCAFNAT, which it borrows.
func (n *NAT) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFNAT)
	*n = NAT{
		MSPort: c.u16("ms_port"), ETRPort: c.u16("etr_port"),
		GlobalETR: c.address("global_etr"), MS: c.address("ms"), PrivateETR: c.address("private_etr"),
	}
	n.RTRs = c.addresses("rtr")
	return c.err
}

// AppendBinary appends the LCAF with its AFI.
func (n NAT) AppendBinary(b []byte) ([]byte, error) {
	return appendLCAF(b, LCAFNAT, 0, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint16(b, n.MSPort)
		b = binary.BigEndian.AppendUint16(b, n.ETRPort)
		b = append(b, n.GlobalETR.Bytes()...)
		b = append(b, n.MS.Bytes()...)
		b = append(b, n.PrivateETR.Bytes()...)
		return append(b, n.RTRs.b...)
	})
}

// String returns every field by its name, such as
// "nat-traversal(global etr 192.0.2.1 port 1024, private etr ..., ms ..., rtr ...)".
func (n NAT) String() string {
	s := []string{
		fmt.Sprintf("global etr %v port %d", n.GlobalETR, n.ETRPort),
		fmt.Sprintf("private etr %v", n.PrivateETR),
		fmt.Sprintf("ms %v port %d", n.MS, n.MSPort),
	}
	var rtrs []string
	for a := range n.RTRs.All() {
		rtrs = append(rtrs, a.String())
	}
	if len(rtrs) > 0 {
		s = append(s, "rtr "+strings.Join(rtrs, " "))
	}
	return lcafText(LCAFNAT, s...)
}
