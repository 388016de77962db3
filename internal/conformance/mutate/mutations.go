package main

var mutations = []mutation{
	{"I5", "mapping/xtr", "itr.go", "case q.tries > maxRetransmits:", "case false:"},
	{"I7", "mapping/xtr", "reply.go", "\to, ok := i.nonces[nonce]\n\tif !ok {", "\to, ok := i.nonces[nonce]\n\tif !ok {\n\t\tfor _, o = range i.nonces {\n\t\t\tok = true\n\t\t}\n\t}\n\tif !ok {"},
	{"P4", "mapping/server", "pubsub.go", "m.Nonce <= x.last()", "false"},
	{"E1", "mapping/xtr", "etr.go", "Probe: m.Probe, Nonce", "Nonce"},
	{"S2", "mapping/server", "replay.go", "return st != nil && nonce <= st.nonce", "return false"},
	{"S3", "mapping/server", "site.go", "case p.EID != e && !p.AcceptMoreSpecifics:", "case false:"},
	{"S4", "mapping/server", "entry.go", "\tr.Authoritative = false\n", ""},
	{"S5", "mapping/server", "request.go", "case m.Probe: // RFC 9301 section 5.2", "case false:"},
	{"S11", "mapping/server", "request.go", "if !s.replies.allow(s.age(q.now), itr, r.found[0].EID) {", "if false {"},
	{"S12", "mapping/server", "apply.go", "if outdated(ed, reg) {", "if false {"},
}
