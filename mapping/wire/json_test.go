package wire

import "testing"

func TestLC14_JSON(t *testing.T) {
	testLCAF(t, LCAFJSON,
		lcafVector{"text", "4003 0000 0e00 000f 0007 7b2261223a317d" + v4Hex,
			&JSON{Document: []byte(`{"a":1}`), Address: mustDecodeAddress(t, v4Hex)}, `json-data-model("{\"a\":1}", 192.0.2.1)`, nil},
		lcafVector{"binary, no address", "4003 0000 0e01 0007 0003 7b7dff 0000", &JSON{Binary: true, Document: []byte("{}\xff")}, "json-data-model(7b7dff)", nil},
		lcafVector{"empty", "4003 0000 0e00 0004 0000 0000", &JSON{}, `json-data-model("")`, nil})
	unencodable(t, &JSON{Document: make([]byte, 1<<16)}, &JSON{Document: make([]byte, 0xffff)})
}
