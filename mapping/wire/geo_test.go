package wire

import "testing"

func TestLC5_GeoCoordinates(t *testing.T) {
	testLCAF(t, LCAFGeo,
		lcafVector{"north-east", "4003 0000 0500 0012 8034 1f07 800d 181d 00000022" + v4Hex,
			&Geo{North: true, East: true, Latitude: Angle{52, 31, 7}, Longitude: Angle{13, 24, 29}, Altitude: 34, Address: mustDecodeAddress(t, v4Hex)},
			"geo-coordinates(52°31'7\"N 13°24'29\"E 34 m, 192.0.2.1)", nil},
		lcafVector{"south-west, below the sea, no address", "4003 0000 0500 000e 0021 1b00 0046 2800 ffffffff 0000",
			&Geo{Latitude: Angle{33, 27, 0}, Longitude: Angle{70, 40, 0}, Altitude: -1},
			"geo-coordinates(33°27'0\"S 70°40'0\"W -1 m)", nil},
		lcafVector{"the pole, no altitude", "4003 0000 0500 000e 805a 0000 00b4 0000 7fffffff 0000",
			&Geo{North: true, Latitude: Angle{Degrees: 90}, Longitude: Angle{Degrees: 180}, Altitude: NoAltitude},
			"geo-coordinates(90°0'0\"N 180°0'0\"W)", nil})
}

func TestLC5_GeoRanges(t *testing.T) {
	refusesLCAF(t, LCAFGeo, ErrBadValue,
		"805b 0000 0000 0000 00000000 0000", // 91 degrees
		"805a 0001 0000 0000 00000000 0000", // 90 degrees and a second
		"8001 3c00 0000 0000 00000000 0000", // 60 minutes
		"8001 003c 0000 0000 00000000 0000", // 60 seconds
		"8001 0000 00b5 0000 00000000 0000", // 181 degrees
		"8001 0000 00b4 0100 00000000 0000") // 180 degrees and a minute
	unencodable(t, &Geo{Latitude: Angle{Degrees: 91}}, &Geo{Longitude: Angle{Minutes: 60}})
}
