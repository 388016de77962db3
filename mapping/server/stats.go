package server

import (
	"iter"
	"sync/atomic"
)

// counter names a counter.
type counter uint8

// What came in and what went out.
const (
	_ counter = iota
	mapRequests
	encapsulatedMapRequests
	mapReplies
	negativeMapReplies
	forwardedMapRequests
	protectedMapRequests
	protectedMapReplies
	deniedUnprotected
	cantSignReplies
	mapRegisters
	acceptedMapRegisters
	repeatedMapRegisters
	mapNotifies
	infoRequests
	infoReplies
	reducedMapNotifies
	expiredRegistrations
	storeCommits
	storeErrors
	sendErrors
	receiveErrors

	// Why a message was dropped.
	dropMalformed
	dropUnexpectedType
	dropMapReply
	dropAckUnmatched
	dropAckAuthentication
	dropAckQueueFull
	dropInfoRefused

	// Publish/subscribe.
	subscriptions
	unsubscriptions
	subscriptionsTooMany
	subscriptionsRefused
	subscriptionsGivenUp
	refusedSubscriptionReplay
	subscribeQueueFull
	publications
	retransmittedMapNotifies
	unacknowledgedMapNotifies
	mapNotifyAcks
	dropProbe
	dropSMR
	dropNoReplyWanted
	dropNoITRRLOC
	dropNoEID
	dropNotIPEID
	dropTooManyRecords
	dropRateLimited
	dropReplyRate
	dropAmplification
	dropHopLimit
	dropNoETR
	dropTooLarge
	dropSecurityOff
	dropSecurityWrapping
	dropSecurityUnknownKey
	dropSecurityUnwrap

	// LISP+ALT.
	altMapRequests
	dropALTSecured
	dropALTLoop

	// Why a Map-Register was refused.
	refusedNoRecords
	refusedNotIPEID
	refusedNoSite
	refusedMoreSpecific
	refusedSeveralSites
	refusedUnknownKey
	refusedAlgorithm
	refusedDigest
	refusedReplay
	refusedLocator
	refusedMapVersion
	refusedXTRID
	refusedTooMany
	refusedQueueFull

	// Who follows the database was too slow or came too late, and was told.
	resyncs

	numCounters
)

// counterTable has the name of each counter, and in words what it counts; drops
// and refusals are told by their names.
var counterTable = [numCounters]struct{ name, counts string }{
	mapRequests:               {"map_requests", "Map-Requests received"},
	encapsulatedMapRequests:   {"encapsulated_map_requests", "Map-Requests received encapsulated (ECM)"},
	mapReplies:                {"map_replies", "Map-Replies sent"},
	negativeMapReplies:        {"negative_map_replies", "negative Map-Replies sent"},
	forwardedMapRequests:      {"forwarded_map_requests", "Map-Requests forwarded to ETRs"},
	protectedMapRequests:      {"protected_map_requests", "Map-Requests received with LISP-SEC"},
	protectedMapReplies:       {"protected_map_replies", "Map-Replies sent with LISP-SEC"},
	deniedUnprotected:         {"denied_unprotected", "Map-Requests denied because they lack the LISP-SEC that their instance requires"},
	cantSignReplies:           {"cant_sign_replies", "Map-Requests with LISP-SEC for sites that can't sign Map-Replies"},
	mapRegisters:              {"map_registers", "Map-Registers received"},
	acceptedMapRegisters:      {"accepted_map_registers", "Map-Registers accepted"},
	repeatedMapRegisters:      {"repeated_map_registers", "Map-Registers that repeat an accepted one, and are confirmed again"},
	mapNotifies:               {"map_notifies", "Map-Notifies sent, retransmissions included"},
	infoRequests:              {"info_requests", "Info-Requests received"},
	infoReplies:               {"info_replies", "Info-Replies sent"},
	reducedMapNotifies:        {"reduced_map_notifies", "Map-Notifies shortened because they would be larger than what asked for them allows"},
	expiredRegistrations:      {"expired_registrations", "registrations that expired"},
	storeCommits:              {"store_commits", "groups of changes that the store took"},
	storeErrors:               {"store_errors", "groups of changes that the store did not take; they are tried again"},
	sendErrors:                {"send_errors", "messages that could not be made or sent"},
	receiveErrors:             {"receive_errors", "errors of reading messages from a socket"},
	dropMalformed:             {name: "drop_malformed"},
	dropUnexpectedType:        {name: "drop_unexpected_type"},
	dropMapReply:              {name: "drop_map_reply"},
	dropAckUnmatched:          {name: "drop_ack_unmatched"},
	dropAckAuthentication:     {name: "drop_ack_authentication"},
	dropAckQueueFull:          {name: "drop_ack_queue_full"},
	dropInfoRefused:           {name: "drop_info_refused"},
	subscriptions:             {"subscriptions", "subscriptions made, prolonged or renewed"},
	unsubscriptions:           {"unsubscriptions", "subscriptions that their xTR ended"},
	subscriptionsTooMany:      {"subscriptions_too_many", "subscriptions not made because their xTR has too many, or too much of it is on its way"},
	subscriptionsRefused:      {"subscriptions_refused", "subscriptions, and ends of them, refused because the xTR is not known or may not"},
	subscriptionsGivenUp:      {"subscriptions_given_up", "subscriptions ended because the xTR does not acknowledge, or could not be kept up with"},
	refusedSubscriptionReplay: {name: "refused_subscription_replay"},
	subscribeQueueFull:        {"subscribe_queue_full", "subscriptions and merged sets not looked at because the queue was full"},
	publications:              {"publications", "publications made for subscribers: Map-Notifies of changed mappings"},
	retransmittedMapNotifies:  {"retransmitted_map_notifies", "Map-Notifies sent again because they were not acknowledged"},
	unacknowledgedMapNotifies: {"unacknowledged_map_notifies", "Map-Notifies given up because they were not acknowledged"},
	mapNotifyAcks:             {"map_notify_acks", "Map-Notify-Acks received that acknowledge a Map-Notify"},
	dropProbe:                 {name: "drop_probe"},
	dropSMR:                   {name: "drop_smr"},
	dropNoReplyWanted:         {name: "drop_no_reply_wanted"},
	dropNoITRRLOC:             {name: "drop_no_itr_rloc"},
	dropNoEID:                 {name: "drop_no_eid"},
	dropNotIPEID:              {name: "drop_not_ip_eid"},
	dropTooManyRecords:        {name: "drop_too_many_records"},
	dropRateLimited:           {name: "drop_rate_limited"},
	dropReplyRate:             {name: "drop_reply_rate"},
	dropAmplification:         {name: "drop_amplification"},
	dropHopLimit:              {name: "drop_hop_limit"},
	dropNoETR:                 {name: "drop_no_etr"},
	dropTooLarge:              {name: "drop_too_large"},
	dropSecurityOff:           {name: "drop_lisp_sec_off"},
	dropSecurityWrapping:      {name: "drop_lisp_sec_wrapping"},
	dropSecurityUnknownKey:    {name: "drop_lisp_sec_unknown_key"},
	dropSecurityUnwrap:        {name: "drop_lisp_sec_unwrap"},
	altMapRequests:            {"alt_map_requests", "Map-Requests that came over the ALT"},
	dropALTSecured:            {name: "drop_alt_lisp_sec"},
	dropALTLoop:               {name: "drop_alt_loop"},
	refusedNoRecords:          {name: "refused_no_records"},
	refusedNotIPEID:           {name: "refused_not_ip_eid"},
	refusedNoSite:             {name: "refused_no_site"},
	refusedMoreSpecific:       {name: "refused_more_specific"},
	refusedSeveralSites:       {name: "refused_several_sites"},
	refusedUnknownKey:         {name: "refused_unknown_key"},
	refusedAlgorithm:          {name: "refused_algorithm"},
	refusedDigest:             {name: "refused_digest"},
	refusedReplay:             {name: "refused_replay"},
	refusedLocator:            {name: "refused_locator"},
	refusedMapVersion:         {name: "refused_map_version"},
	refusedXTRID:              {name: "refused_xtr_id"},
	refusedTooMany:            {name: "refused_too_many"},
	refusedQueueFull:          {name: "refused_queue_full"},
	resyncs:                   {"watch_resyncs", "times that who watches mappings was told to begin anew"},
}

// String returns the name that Stats uses.
func (c counter) String() string { return counterTable[c].name }

type counters [numCounters]atomic.Uint64

func (cs *counters) inc(c counter) { cs[c].Add(1) }

func (cs *counters) add(c counter, n uint64) {
	if n > 0 {
		cs[c].Add(n)
	}
}

// Meanings returns the names of the counters of Stats, and in words what each
// counts; those of drops and refusals have no words.
func Meanings() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for c := counter(1); c < numCounters; c++ {
			if !yield(counterTable[c].name, counterTable[c].counts) {
				return
			}
		}
	}
}

// Stats walks all counters, which only grow, and then the gauges eids
// (everything in the table), mappings (put over the API), registrations and
// store_pending (changes that the store has not taken yet) and subscriptions_active,
// and with an ALT what that counts. The names never change.
func (s *Server) Stats() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for c := counter(1); c < numCounters; c++ {
			if !yield(c.String(), s.counters[c].Load()) {
				return
			}
		}
		var registrations int64
		for _, x := range s.sites.Load().all {
			registrations += x.registrations.Load()
		}
		s.mu.Lock()
		active := int64(s.pubsub.size)
		s.mu.Unlock()
		for _, g := range []struct {
			name  string
			value int64
		}{
			{"eids", int64(s.table.Load().Len())},
			{"mappings", s.mappings.Load()},
			{"registrations", registrations},
			{"store_pending", s.pendingLen.Load()},
			{"subscriptions_active", active},
		} {
			if !yield(g.name, uint64(g.value)) {
				return
			}
		}
		if s.alt != nil {
			s.alt.Stats()(yield)
		}
	}
}
