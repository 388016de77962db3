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

var counterNames = [numCounters]string{
	mapRequests:               "map_requests",
	encapsulatedMapRequests:   "encapsulated_map_requests",
	mapReplies:                "map_replies",
	negativeMapReplies:        "negative_map_replies",
	forwardedMapRequests:      "forwarded_map_requests",
	protectedMapRequests:      "protected_map_requests",
	protectedMapReplies:       "protected_map_replies",
	deniedUnprotected:         "denied_unprotected",
	cantSignReplies:           "cant_sign_replies",
	mapRegisters:              "map_registers",
	acceptedMapRegisters:      "accepted_map_registers",
	repeatedMapRegisters:      "repeated_map_registers",
	mapNotifies:               "map_notifies",
	infoRequests:              "info_requests",
	infoReplies:               "info_replies",
	reducedMapNotifies:        "reduced_map_notifies",
	expiredRegistrations:      "expired_registrations",
	storeCommits:              "store_commits",
	storeErrors:               "store_errors",
	sendErrors:                "send_errors",
	receiveErrors:             "receive_errors",
	dropMalformed:             "drop_malformed",
	dropUnexpectedType:        "drop_unexpected_type",
	dropMapReply:              "drop_map_reply",
	dropAckUnmatched:          "drop_ack_unmatched",
	dropAckAuthentication:     "drop_ack_authentication",
	dropAckQueueFull:          "drop_ack_queue_full",
	dropInfoRefused:           "drop_info_refused",
	subscriptions:             "subscriptions",
	unsubscriptions:           "unsubscriptions",
	subscriptionsTooMany:      "subscriptions_too_many",
	subscriptionsRefused:      "subscriptions_refused",
	subscriptionsGivenUp:      "subscriptions_given_up",
	refusedSubscriptionReplay: "refused_subscription_replay",
	subscribeQueueFull:        "subscribe_queue_full",
	publications:              "publications",
	retransmittedMapNotifies:  "retransmitted_map_notifies",
	unacknowledgedMapNotifies: "unacknowledged_map_notifies",
	mapNotifyAcks:             "map_notify_acks",
	dropProbe:                 "drop_probe",
	dropSMR:                   "drop_smr",
	dropNoReplyWanted:         "drop_no_reply_wanted",
	dropNoITRRLOC:             "drop_no_itr_rloc",
	dropNoEID:                 "drop_no_eid",
	dropNotIPEID:              "drop_not_ip_eid",
	dropTooManyRecords:        "drop_too_many_records",
	dropRateLimited:           "drop_rate_limited",
	dropReplyRate:             "drop_reply_rate",
	dropAmplification:         "drop_amplification",
	dropHopLimit:              "drop_hop_limit",
	dropNoETR:                 "drop_no_etr",
	dropTooLarge:              "drop_too_large",
	dropSecurityOff:           "drop_lisp_sec_off",
	dropSecurityWrapping:      "drop_lisp_sec_wrapping",
	dropSecurityUnknownKey:    "drop_lisp_sec_unknown_key",
	dropSecurityUnwrap:        "drop_lisp_sec_unwrap",
	altMapRequests:            "alt_map_requests",
	dropALTSecured:            "drop_alt_lisp_sec",
	dropALTLoop:               "drop_alt_loop",
	refusedNoRecords:          "refused_no_records",
	refusedNotIPEID:           "refused_not_ip_eid",
	refusedNoSite:             "refused_no_site",
	refusedMoreSpecific:       "refused_more_specific",
	refusedSeveralSites:       "refused_several_sites",
	refusedUnknownKey:         "refused_unknown_key",
	refusedAlgorithm:          "refused_algorithm",
	refusedDigest:             "refused_digest",
	refusedReplay:             "refused_replay",
	refusedLocator:            "refused_locator",
	refusedMapVersion:         "refused_map_version",
	refusedXTRID:              "refused_xtr_id",
	refusedTooMany:            "refused_too_many",
	refusedQueueFull:          "refused_queue_full",
	resyncs:                   "watch_resyncs",
}

// String returns the name that Stats uses.
func (c counter) String() string { return counterNames[c] }

type counters [numCounters]atomic.Uint64

func (cs *counters) inc(c counter) { cs[c].Add(1) }

func (cs *counters) add(c counter, n uint64) {
	if n > 0 {
		cs[c].Add(n)
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
