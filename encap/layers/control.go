package layers

import (
	"encoding/hex"
	"fmt"

	"github.com/eidolon-lisp/eidolon/mapping/wire"
)

// ControlSummary is a control message in readable form. Which fields are set
// depends on its type.
type ControlSummary struct {
	// Type is the name of the message, or of the use that is made of it:
	// "map-request", "rloc-probe", "solicit-map-request", and so on.
	Type string `json:"type"`
	// Flags are the set bits by the letters of RFC 9301.
	Flags string `json:"flags,omitempty"`
	Nonce string `json:"nonce,omitempty"`

	SourceEID string             `json:"source_eid,omitempty"`
	ITRRLOCs  []string           `json:"itr_rlocs,omitempty"`
	EIDs      []RequestedSummary `json:"eids,omitempty"`
	MapData   *RecordSummary     `json:"map_data,omitempty"`

	Authentication *AuthenticationSummary `json:"authentication,omitempty"`
	Records        []RecordSummary        `json:"records,omitempty"`
	XTRID          string                 `json:"xtr_id,omitempty"`
	SiteID         *uint64                `json:"site_id,omitempty"`
	// SecurityData is the number of octets of LISP-SEC data.
	SecurityData int `json:"security_data,omitempty"`

	// EID, TTL (minutes) and Body are those of the Info messages.
	EID  string `json:"eid,omitempty"`
	TTL  uint32 `json:"ttl,omitempty"`
	Body string `json:"body,omitempty"`

	// Inner is the message inside an ECM, InnerSource and InnerDestination
	// its addresses.
	InnerSource      string          `json:"inner_source,omitempty"`
	InnerDestination string          `json:"inner_destination,omitempty"`
	Inner            *ControlSummary `json:"inner,omitempty"`

	// Trailing is the number of octets after the message.
	Trailing int `json:"trailing,omitempty"`
	// Undecoded is the number of octets of a message of a type that is
	// recognised but not read.
	Undecoded int      `json:"undecoded,omitempty"`
	Error     *Failure `json:"error,omitempty"`
}

// RequestedSummary is an EID-prefix of a Map-Request.
type RequestedSummary struct {
	EID       string `json:"eid"`
	Subscribe bool   `json:"subscribe,omitempty"`
}

// AuthenticationSummary is the authentication data of a message; nothing
// checks it here.
type AuthenticationSummary struct {
	KeyID       uint8  `json:"key_id"`
	Algorithm   string `json:"algorithm"`
	AlgorithmID uint8  `json:"algorithm_id"`
	Length      int    `json:"length"` // octets
}

// RecordSummary is an EID-record.
type RecordSummary struct {
	EID           string           `json:"eid"`
	TTL           uint32           `json:"record_ttl"` // minutes
	Action        string           `json:"action"`
	Authoritative bool             `json:"authoritative"`
	Version       uint16           `json:"map_version,omitempty"`
	Locators      []LocatorSummary `json:"locators"`
}

// LocatorSummary is an RLOC-record.
type LocatorSummary struct {
	Locator   string `json:"locator"`
	Priority  uint8  `json:"priority"`
	Weight    uint8  `json:"weight"`
	MPriority uint8  `json:"mpriority"`
	MWeight   uint8  `json:"mweight"`
	Flags     string `json:"flags,omitempty"` // L, p, R
}

// maxNesting is how many ECMs one inside the other are looked into. RFC 9301
// section 5.8 knows of one.
const maxNesting = 2

// newControl reads the control message b.
func newControl(b []byte, nesting int) *ControlSummary {
	t, err := wire.PeekType(b)
	if err != nil {
		return &ControlSummary{Type: "malformed", Error: failure(err)}
	}
	s := &ControlSummary{Type: t.String()}
	m := newMessage(t)
	if m == nil {
		if nonce, ok := wire.PeekNonce(b); ok {
			s.Nonce = nonceString(nonce)
		}
		s.Undecoded = len(b)
		return s
	}
	if err := m.Decode(b); err != nil {
		s.Error = failure(err)
		return s
	}
	switch m := m.(type) {
	case *wire.MapRequest:
		s.mapRequest(m)
	case *wire.MapReply:
		s.Flags, s.Nonce = letters("PES", m.Probe, m.EchoNonce, m.Security), nonceString(m.Nonce)
		s.SecurityData = len(m.SecurityData)
		s.records(m.Records)
		if m.Probe {
			s.Type = "rloc-probe-reply"
		} else if s.negative() {
			s.Type = "negative-map-reply"
		}
	case *wire.MapRegister:
		s.Flags = letters("PSIETaM", m.ProxyReply, m.Security, m.HasXTRID, m.EIDNotify, m.TTLFromRegister, m.Merge, m.WantNotify)
		s.Nonce = nonceString(m.Nonce)
		s.authentication(m.Auth)
		s.records(m.Records)
		s.ids(m.HasXTRID, m.XTRID[:], m.SiteID)
	case *wire.MapNotify:
		s.Flags, s.Nonce = letters("I", m.HasXTRID), nonceString(m.Nonce)
		s.authentication(m.Auth)
		s.records(m.Records)
		s.ids(m.HasXTRID, m.XTRID[:], m.SiteID)
	case *wire.Info:
		s.Type = "info-request"
		if m.Reply {
			s.Type = "info-reply"
		}
		s.Nonce, s.TTL = nonceString(m.Nonce), m.TTL
		s.authentication(m.Auth)
		if !m.EID.IsZero() {
			s.EID = m.EID.PrefixString(m.MaskLen)
		}
		if !m.Body.IsZero() {
			s.Body = m.Body.String()
		}
	case *wire.ECM:
		s.Flags = letters("SDEM", m.Security, m.DDT, m.ToETR, m.ToMapServer)
		s.SecurityData = len(m.SecurityData)
		s.InnerSource, s.InnerDestination = m.Src.String(), m.Dst.String()
		if nesting+1 < maxNesting {
			s.Inner = newControl(m.Message, nesting+1)
		} else {
			s.Inner = &ControlSummary{Type: "not looked into", Undecoded: len(m.Message)}
		}
	}
	// All encodings keep their lengths, so what is over was ignored.
	if again, err := m.AppendBinary(nil); err == nil {
		s.Trailing = max(0, len(b)-len(again))
	}
	return s
}

func (s *ControlSummary) mapRequest(m *wire.MapRequest) {
	s.Flags = letters("AMPSpsILD", m.Authoritative, m.HasMapData, m.Probe, m.SMR, m.PITR, m.SMRInvoked, m.HasXTRID, m.LocalXTR, m.NoReply)
	s.Nonce, s.SourceEID = nonceString(m.Nonce), m.SourceEID.String()
	for _, a := range m.ITRRLOCs {
		s.ITRRLOCs = append(s.ITRRLOCs, a.String())
	}
	for _, r := range m.EIDs {
		s.EIDs = append(s.EIDs, RequestedSummary{r.EID.PrefixString(r.MaskLen), r.Subscribe})
	}
	if m.HasMapData {
		r := newRecord(m.MapData)
		s.MapData = &r
	}
	s.ids(m.HasXTRID, m.XTRID[:], m.SiteID)
	switch {
	case m.Probe:
		s.Type = "rloc-probe"
	case m.SMR:
		s.Type = "solicit-map-request"
	case m.SMRInvoked:
		s.Type = "smr-invoked-map-request"
	}
}

func (s *ControlSummary) authentication(a wire.Authentication) {
	s.Authentication = &AuthenticationSummary{KeyID: a.KeyID, Algorithm: algorithmName(a.Algorithm), AlgorithmID: a.Algorithm, Length: len(a.Data)}
}

// algorithmName returns the name of an algorithm of RFC 9301 section 12.5.
func algorithmName(id uint8) string {
	names := [...]string{"none", "hmac-sha-1-96", "hmac-sha-256-128", "hmac-sha-256-128-hkdf"}
	if int(id) < len(names) {
		return names[id]
	}
	return "unknown"
}

func (s *ControlSummary) records(rs wire.Records) {
	for r := range rs.All() {
		s.Records = append(s.Records, newRecord(r))
	}
}

// negative reports whether there are records and none has a locator.
func (s *ControlSummary) negative() bool {
	for _, r := range s.Records {
		if len(r.Locators) > 0 {
			return false
		}
	}
	return len(s.Records) > 0
}

func newRecord(r wire.Record) RecordSummary {
	s := RecordSummary{
		EID: r.EID.PrefixString(r.MaskLen), TTL: r.TTL, Action: r.Action.String(), Authoritative: r.Authoritative,
		Version: r.Version, Locators: []LocatorSummary{},
	}
	for l := range r.Locators() {
		s.Locators = append(s.Locators, LocatorSummary{
			Locator: l.Address.String(), Priority: l.Priority, Weight: l.Weight,
			MPriority: l.MPriority, MWeight: l.MWeight, Flags: l.Flags.String(),
		})
	}
	return s
}

func (s *ControlSummary) ids(has bool, xtr []byte, site uint64) {
	if has {
		s.XTRID, s.SiteID = hex.EncodeToString(xtr), &site
	}
}

func nonceString(n uint64) string { return fmt.Sprintf("%016x", n) }
