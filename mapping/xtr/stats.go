package xtr

import (
	"iter"
	"sync/atomic"
)

// counter names one statistic. All count events since New.
type counter uint8

const (
	mapRequestsOut counter = iota
	mapRequestsRetransmitted
	mapRequestsRefresh
	mapRequestsSMRInvoked
	mapRequestsProtected
	mapRequestsDowngraded
	mapRepliesIn
	mapRepliesUnmatched
	alarmForgedReplies
	mapRepliesWrongEID
	mapRepliesVerified
	mapRepliesUnprotected
	mapRepliesForged
	mapRepliesAlgorithm
	mapReplyRecordsOverclaimed
	mapReplyRecordsRefused
	mapReplyLocatorsRefused
	mapReplyLocatorsIgnored
	misses
	missesCached
	missesPending
	missesRefused
	missesRateLimited
	missesTableFull
	resolutionsAnswered
	resolutionsGivenUp
	resolutionsEvicted
	mapRequestsIn
	mapRequestsNotOurs
	mapRequestsNoITRRLOC
	mapRequestsNoReply
	mapRequestsProbeEncapsulated
	mapRequestsSecurityOff
	mapRequestsSecurityRefused
	mapRepliesOut
	mapRepliesSigned
	mapRepliesRateLimited
	mapRepliesTooLarge
	rlocProbesIn
	smrIn
	smrNotCached
	smrRateLimited
	smrDelayed
	heardTableFull
	smrOut
	smrAnswered
	smrTableFull
	mapVersionsOutdated
	mapVersionsNewer
	sourcesUnlisted
	mapVersionsRateLimited
	mapDataIn
	mapDataIgnored
	mapDataRateLimited
	mapRequestsVerify
	rlocProbesOut
	rlocProbesAnswered
	rlocProbesUnanswered
	rlocProbeRepliesRefused
	rlocProbeTableFull
	infoRequestsOut
	infoRequestsUnanswered
	infoRepliesIn
	infoRepliesUnmatched
	infoRepliesAuthFailed
	pathMTUProbesOut
	pathMTUProbesAnswered
	pathMTUsLowered
	answeringQuestionsOut
	answeringRoundsLost
	answeringLost
	rlocsDown
	pathsDown
	uplinksDown
	uplinksUp
	uplinksDamped
	suspicionsTraffic
	suspicionsUplink
	suspicionsICMP
	suspicionsPeer
	rlocsUp
	mapRegistersOut
	mapRegistersRetransmitted
	mapNotifiesIn
	mapNotifiesDuplicate
	mapNotifiesUnknownServer
	mapNotifiesAuthFailed
	mapNotifyAcksOut
	mapNotifyAcksRateLimited
	mapRequestsSubscribe
	mapRequestsUnsubscribe
	subscriptionsConfirmed
	subscriptionsRefused
	subscriptionsEnded
	subscriptionsLeft
	subscriptionsTableFull
	publicationsIn
	publicationsDuplicate
	publicationsReplayed
	publicationsUnsolicited
	publicationsAuthFailed
	controlMalformed
	controlUnexpected
	controlWrongPort
	controlQueueFull
	readErrors
	sendErrors
	numCounters
)

var counterNames = [numCounters]string{
	mapRequestsOut:               "map_requests_out",
	mapRequestsRetransmitted:     "map_requests_retransmitted",
	mapRequestsRefresh:           "map_requests_refresh",
	mapRequestsSMRInvoked:        "map_requests_smr_invoked",
	mapRequestsProtected:         "map_requests_protected",
	mapRequestsDowngraded:        "map_requests_downgraded",
	mapRepliesIn:                 "map_replies_in",
	alarmForgedReplies:           "alarm_forged_map_replies",
	mapRepliesUnmatched:          "map_replies_unmatched",
	mapRepliesWrongEID:           "map_replies_wrong_eid",
	mapRepliesVerified:           "map_replies_verified",
	mapRepliesUnprotected:        "map_replies_unprotected",
	mapRepliesForged:             "map_replies_forged",
	mapRepliesAlgorithm:          "map_replies_other_algorithm",
	mapReplyRecordsOverclaimed:   "map_reply_records_overclaimed",
	mapReplyRecordsRefused:       "map_reply_records_refused",
	mapReplyLocatorsRefused:      "map_reply_locators_refused",
	mapReplyLocatorsIgnored:      "map_reply_locators_ignored",
	misses:                       "misses",
	missesCached:                 "misses_cached",
	missesPending:                "misses_pending",
	missesRefused:                "misses_refused",
	missesRateLimited:            "misses_rate_limited",
	missesTableFull:              "misses_table_full",
	resolutionsAnswered:          "resolutions_answered",
	resolutionsGivenUp:           "resolutions_given_up",
	resolutionsEvicted:           "resolutions_evicted",
	mapRequestsIn:                "map_requests_in",
	mapRequestsNotOurs:           "map_requests_not_ours",
	mapRequestsNoITRRLOC:         "map_requests_no_itr_rloc",
	mapRequestsNoReply:           "map_requests_no_reply",
	mapRequestsProbeEncapsulated: "map_requests_probe_encapsulated",
	mapRequestsSecurityOff:       "map_requests_lisp_sec_off",
	mapRequestsSecurityRefused:   "map_requests_lisp_sec_refused",
	mapRepliesOut:                "map_replies_out",
	mapRepliesSigned:             "map_replies_signed",
	mapRepliesTooLarge:           "map_replies_too_large",
	mapRepliesRateLimited:        "map_replies_rate_limited",
	rlocProbesIn:                 "rloc_probes_in",
	smrIn:                        "smr_in",
	smrNotCached:                 "smr_not_cached",
	smrRateLimited:               "smr_rate_limited",
	smrDelayed:                   "smr_delayed",
	heardTableFull:               "heard_table_full",
	smrOut:                       "smr_out",
	smrAnswered:                  "smr_answered",
	smrTableFull:                 "smr_table_full",
	mapVersionsOutdated:          "map_versions_outdated",
	mapVersionsNewer:             "map_versions_newer",
	sourcesUnlisted:              "sources_unlisted",
	mapVersionsRateLimited:       "map_versions_rate_limited",
	mapDataIn:                    "map_data_in",
	mapDataIgnored:               "map_data_ignored",
	mapDataRateLimited:           "map_data_rate_limited",
	mapRequestsVerify:            "map_requests_verify",
	rlocProbesOut:                "rloc_probes_out",
	rlocProbesAnswered:           "rloc_probes_answered",
	rlocProbesUnanswered:         "rloc_probes_unanswered",
	rlocProbeRepliesRefused:      "rloc_probe_replies_refused",
	rlocProbeTableFull:           "rloc_probe_table_full",
	infoRequestsOut:              "info_requests_out",
	infoRequestsUnanswered:       "info_requests_unanswered",
	infoRepliesIn:                "info_replies_in",
	infoRepliesUnmatched:         "info_replies_unmatched",
	infoRepliesAuthFailed:        "info_replies_auth_failed",
	pathMTUProbesOut:             "path_mtu_probes_out",
	pathMTUProbesAnswered:        "path_mtu_probes_answered",
	pathMTUsLowered:              "path_mtus_lowered",
	answeringQuestionsOut:        "answering_map_requests_out",
	answeringRoundsLost:          "answering_rounds_unanswered",
	answeringLost:                "mapping_system_silent",
	rlocsDown:                    "rlocs_down",
	pathsDown:                    "paths_down",
	uplinksDown:                  "uplinks_down",
	uplinksUp:                    "uplinks_up",
	uplinksDamped:                "uplinks_damped",
	suspicionsTraffic:            "suspicions_traffic",
	suspicionsUplink:             "suspicions_uplink",
	suspicionsICMP:               "suspicions_icmp",
	suspicionsPeer:               "suspicions_peer",
	rlocsUp:                      "rlocs_up",
	mapRegistersOut:              "map_registers_out",
	mapRegistersRetransmitted:    "map_registers_retransmitted",
	mapNotifiesIn:                "map_notifies_in",
	mapNotifiesDuplicate:         "map_notifies_duplicate",
	mapNotifiesUnknownServer:     "map_notifies_unknown_server",
	mapNotifiesAuthFailed:        "map_notifies_auth_failed",
	mapNotifyAcksOut:             "map_notify_acks_out",
	mapNotifyAcksRateLimited:     "map_notify_acks_rate_limited",
	mapRequestsSubscribe:         "map_requests_subscribe",
	mapRequestsUnsubscribe:       "map_requests_unsubscribe",
	subscriptionsConfirmed:       "subscriptions_confirmed",
	subscriptionsRefused:         "subscriptions_refused",
	subscriptionsEnded:           "subscriptions_ended",
	subscriptionsLeft:            "subscriptions_left",
	subscriptionsTableFull:       "subscriptions_table_full",
	publicationsIn:               "publications_in",
	publicationsDuplicate:        "publications_duplicate",
	publicationsReplayed:         "publications_replayed",
	publicationsUnsolicited:      "publications_unsolicited",
	publicationsAuthFailed:       "publications_auth_failed",
	controlMalformed:             "control_malformed",
	controlUnexpected:            "control_unexpected",
	controlWrongPort:             "control_wrong_port",
	controlQueueFull:             "control_queue_full",
	readErrors:                   "read_errors",
	sendErrors:                   "send_errors",
}

// counters are written by the machine and the receive loop and read by all.
type counters [numCounters]atomic.Uint64

func (c *counters) inc(n counter) { c[n].Add(1) }

func (c *counters) add(n counter, events int) { c[n].Add(uint64(events)) }

// all walks the counters in their order of declaration.
func (c *counters) all() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for i := range c {
			if !yield(counterNames[i], c[i].Load()) {
				return
			}
		}
	}
}
