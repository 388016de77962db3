package wire

import (
	"encoding/binary"
	"fmt"
)

// Geo is the LCAF of a place on earth, in WGS-84, beside an address (RFC 8060
// section 4.3).
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-------------------------------+---------------+---------------+
//	|          AFI = 16387          |     Rsvd1     |     Flags     |
//	+---------------+---------------+---------------+---------------+
//	|   Type = 5    |     Rsvd2     |            Length             |
//	+-+-------------+---------------+---------------+---------------+
//	|N|     Latitude Degrees        |    Minutes    |    Seconds    |
//	+-+-----------------------------+---------------+---------------+
//	|E|     Longitude Degrees       |    Minutes    |    Seconds    |
//	+-+-----------------------------+---------------+---------------+
//	|                            Altitude                           |
//	+-------------------------------+-------------------------------+
//	|              AFI              |          Address  ...
//	+-------------------------------+-------------------------------+
type Geo struct {
	North, East bool
	Latitude    Angle // at most 90 degrees
	Longitude   Angle // at most 180 degrees
	Altitude    int32 // metres, or NoAltitude
	Address     Address
}

// NoAltitude is the altitude that says nothing.
const NoAltitude = 0x7fffffff

// Angle is the size of an angle; its direction is apart.
type Angle struct {
	Degrees          uint16
	Minutes, Seconds uint8 // 0 to 59
}

// check reports whether a is an angle of at most so many degrees.
func (a Angle) check(most uint16) error {
	if a.Minutes > 59 || a.Seconds > 59 || a.Degrees > most || a.Degrees == most && (a.Minutes > 0 || a.Seconds > 0) {
		return fmt.Errorf("%w: %v, at most %d degrees", ErrBadValue, a, most)
	}
	return nil
}

// String returns degrees, minutes and seconds, such as 52°31'7".
func (a Angle) String() string { return fmt.Sprintf("%d°%d'%d\"", a.Degrees, a.Minutes, a.Seconds) }

// Decode reads the payload of an LCAF of type LCAFGeo, which it borrows. It
// fails with ErrBadValue for what is no place. Octets after the address are
// ignored.
func (g *Geo) Decode(l LCAF) error {
	c := lcafCursor(l, LCAFGeo)
	*g = Geo{}
	g.North, g.Latitude = c.angle("latitude", 90)
	g.East, g.Longitude = c.angle("longitude", 180)
	g.Altitude = int32(c.u32("altitude"))
	g.Address = c.address("address")
	return c.err
}

func (c *cursor) angle(field string, most uint16) (positive bool, a Angle) {
	off, v := c.off, c.u32(field)
	a = Angle{uint16(v>>16) & 0x7fff, uint8(v >> 8), uint8(v)}
	if err := a.check(most); err != nil {
		c.failAt(off, field, err)
	}
	return v>>31 == 1, a
}

// AppendBinary appends the LCAF with its AFI. It fails with ErrInvalid for what
// is no place.
func (g Geo) AppendBinary(b []byte) ([]byte, error) {
	for _, x := range []struct {
		a    Angle
		most uint16
	}{{g.Latitude, 90}, {g.Longitude, 180}} {
		if err := x.a.check(x.most); err != nil {
			return b, fmt.Errorf("%v: %w: %w", LCAFGeo, ErrInvalid, err)
		}
	}
	return appendLCAF(b, LCAFGeo, 0, func(b []byte) []byte {
		b = appendAngle(b, g.North, g.Latitude)
		b = appendAngle(b, g.East, g.Longitude)
		b = binary.BigEndian.AppendUint32(b, uint32(g.Altitude))
		return append(b, g.Address.Bytes()...)
	})
}

func appendAngle(b []byte, positive bool, a Angle) []byte {
	if positive {
		a.Degrees |= 0x8000
	}
	return append(binary.BigEndian.AppendUint16(b, a.Degrees), a.Minutes, a.Seconds)
}

// String returns "geo-coordinates(52°31'7"N 13°24'29"E 34 m, address)".
func (g Geo) String() string {
	letter := func(positive bool, letters string) byte {
		if positive {
			return letters[0]
		}
		return letters[1]
	}
	place := fmt.Sprintf("%v%c %v%c", g.Latitude, letter(g.North, "NS"), g.Longitude, letter(g.East, "EW"))
	if g.Altitude != NoAltitude {
		place += fmt.Sprintf(" %d m", g.Altitude)
	}
	return lcafText(LCAFGeo, place, inside(g.Address))
}
