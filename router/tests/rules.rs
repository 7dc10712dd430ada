//! The rules of an intermediary of HTTP/1.1, one by one: raw bytes at a running router with a
//! back end that writes down what reaches it.
//!
//! Each rule has at least the test named here; a row of a table begins with its rule's number.
//! Names without a module are in `rules/`, those with `proxy::` in `router/tests/proxy/`.
//!
//! | rule | test |
//! |---|---|
//! | 1 both framings | `framing::a_request_with_two_ends_is_refused` |
//! | 2, 3 other codings | `framing::a_coding_that_is_not_exactly_chunked_is_refused` |
//! | 4 chunks in 1.0 | `framing::a_request_with_two_ends_is_refused` |
//! | 5 lengths | `framing::a_request_with_two_ends_is_refused`, `framing::a_length_that_is_not_one_number_is_refused` |
//! | 6 lengths of responses | `framing::a_response_whose_end_is_unclear_ends_its_connection`, `framing::a_response_is_repaired_where_that_is_safe` |
//! | 7 line ends | `framing::a_head_that_two_parsers_read_differently_is_refused`, `framing::a_chunk_that_two_parsers_read_differently_is_refused` |
//! | 8 chunk lines | `framing::a_chunk_that_two_parsers_read_differently_is_refused`, `framing::a_body_that_goes_wrong_on_its_way_is_never_ended_at_the_back_end` |
//! | 9 folds | `framing::a_head_that_two_parsers_read_differently_is_refused`, `framing::a_response_is_repaired_where_that_is_safe` |
//! | 10 space before the colon | the same two |
//! | 11 space before the first field | `framing::a_head_that_two_parsers_read_differently_is_refused` |
//! | 12 control bytes | the same, `framing::a_response_whose_end_is_unclear_ends_its_connection` |
//! | 13 bodies of any method | `framing::a_body_goes_on_whatever_the_method_is` |
//! | 14 responses without a body | `framing::a_response_that_has_no_body_gets_none` |
//! | 15 bytes behind a response | `framing::bytes_behind_a_response_are_nobodys`, `broken::an_instance_whose_body_is_not_as_announced` |
//! | 16 a body that is cut | `framing::a_body_that_is_cut_never_ends_well`, `proxy::failures::a_response_that_is_cut_is_never_taken_for_a_whole_one` |
//! | 17 close-delimited bodies | `framing::a_body_that_ends_with_its_connection_is_framed_anew` |
//! | 18 an empty line before | `framing::one_empty_line_before_a_request_is_skipped` |
//! | 19 hosts | `target::a_request_without_one_valid_host_is_refused` |
//! | 20 absolute form | `target::an_absolute_target_decides_the_host` |
//! | 21 other forms | `target::a_target_of_no_form_is_refused` |
//! | 22 `:authority` | HTTP/2 only |
//! | 23 host comparison | `target::a_host_is_compared_without_case_port_and_final_dot` |
//! | 24 SNI | `router/tests/tls/requests.rs`: `a_request_for_the_host_of_another_certificate_is_misdirected`; the scheme: `answers::an_error_has_its_status_and_the_code_of_the_log` (421) |
//! | 25 paths | `target::a_path_is_matched_as_what_it_means`, `target::a_target_of_no_form_is_refused` |
//! | 26 fields of a hop | `hops::what_concerns_the_clients_connection_stays_on_it`, `hops::what_concerns_the_back_ends_connection_stays_on_it` |
//! | 27 options that are not to be obeyed | the same two |
//! | 28 `TE: trailers` | `hops::what_concerns_the_clients_connection_stays_on_it` |
//! | 29 trailers | `hops::trailers_pass_both_ways_without_those_that_come_too_late` |
//! | 30 `Via`, loops | `hops::a_message_says_whom_it_has_passed`, `hops::a_request_that_comes_back_is_refused`, `hops::two_routers_in_a_row_are_no_loop`, `hops::a_listener_may_stay_unnamed` (`CDN-Loop` is for networks of caches: it passes) |
//! | 31 `Max-Forwards` | `hops::a_request_is_counted_down_and_answered_at_the_last_hop` |
//! | 32 order of fields | `hops::what_concerns_the_clients_connection_stays_on_it`, `hops::what_concerns_the_back_ends_connection_stays_on_it` |
//! | 33 `Date` | `hops::what_concerns_the_back_ends_connection_stays_on_it` |
//! | 34 `no-transform` | nothing is compressed or changed |
//! | 35 case of names | `hops::what_concerns_the_clients_connection_stays_on_it`; lower case: HTTP/2 only |
//! | 36 100-continue | `early::an_expectation_goes_on_and_any_other_is_refused`, `early::a_final_answer_needs_no_permission_before_it`, `proxy::messages::a_client_that_asks_gets_permission_before_it_sends_its_body` |
//! | 37 103 | `early::interim_responses_pass_in_order_to_a_client_that_knows_them` |
//! | 38 early answers | `early::an_answer_that_comes_early_is_delivered_and_ends_both_connections`, `proxy::bodies::both_bodies_may_flow_at_once` |
//! | 39 early answer, then reset | `early::an_early_answer_survives_the_reset_behind_it`, `proxy::failures::an_answer_that_comes_before_the_request_is_read_reaches_the_client` |
//! | 40 bodies are sent once | `early::a_body_that_is_not_at_hand_any_more_is_not_sent_again`, `early::a_body_that_is_at_hand_is_sent_again_whole` |
//! | 41 tokens of `Upgrade` | `upgrade::only_a_websocket_is_asked_for` |
//! | 42 no tunnel before 101 | `upgrade::nothing_passes_before_the_switch_and_nothing_else_after_a_refusal`, `upgrade::the_switch_is_announced_in_our_own_words` |
//! | 43 upgrades with a body | `upgrade::an_upgrade_with_a_body_and_connect_are_refused` |
//! | 44 101 unasked | `upgrade::a_switch_that_nobody_asked_for_is_an_error` |
//! | 45 CONNECT | `upgrade::an_upgrade_with_a_body_and_connect_are_refused` |
//! | 46 WebSockets over HTTP/2 | HTTP/2 only |
//! | 47 tunnels | `upgrade::each_direction_of_a_tunnel_ends_on_its_own_and_silence_ends_both`, `proxy::tunnels::a_tunnel_carries_bytes_both_ways_and_outlives_table_changes` |
//! | 48 to 53, 55 | HTTP/2 only |
//! | 54 size of a field list | HPACK only; what HTTP/1.1 has of it is 66 |
//! | 56 statuses | `answers::an_error_has_its_status_and_the_code_of_the_log`, `broken::*`, `proxy::failures::every_dead_end_has_its_own_status` |
//! | 57 a client that has gone | `answers::a_client_that_has_gone_takes_its_connection_to_the_back_end_with_it` |
//! | 58 what is tried again | `proxy::failures::a_request_that_must_not_be_sent_twice_is_not` and its neighbours, `broken::*`; by status: `proxy::retries::*`, with `Retry-After` in `an_answer_that_says_when_to_come_back_is_taken` |
//! | 59 another endpoint | `proxy::failures::a_refused_connection_is_tried_on_another_instance`, `proxy::failures::no_instance_is_tried_twice_and_the_reason_is_told`; attempts are not told to anybody, so there is no field to strip |
//! | 60 who the client is | `hops::what_concerns_the_clients_connection_stays_on_it`, `hops::what_a_trusted_proxy_says_is_added_to` |
//! | 61 PROXY protocol | `proxy::greeting::*` |
//! | 62 names with `_` and `.` | `hops::what_concerns_the_clients_connection_stays_on_it` |
//! | 63 slow clients | `proxy::failures::a_client_that_stalls_is_told_so`, `proxy::failures::a_client_that_trickles_its_head_is_cut_off_all_the_same`, the tests `slow` and `proxy::overload::*` |
//! | 64 0-RTT | TLS only |
//! | 65 persistence | `answers::a_connection_ends_when_either_side_says_so`, `answers::what_is_sent_behind_the_last_request_is_not_answered`, `answers::a_refusal_reaches_a_client_that_is_still_sending` |
//! | 66 sizes | `answers::a_size_is_refused_before_it_is_buffered` |
//! | 67 kept connections that close | `proxy::failures::a_kept_connection_that_dies_under_a_request_is_replaced`, `broken::an_instance_that_speaks_unasked_is_not_listened_to` |
//! | 68 fields of which there is one | `hops::what_concerns_the_back_ends_connection_stays_on_it`, `hops::an_answer_of_the_router_has_each_field_once` |
//! | 69 compression | nothing is compressed |
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "rules/answers.rs"]
mod answers;
#[path = "rules/broken.rs"]
mod broken;
#[path = "rules/early.rs"]
mod early;
#[path = "rules/framing.rs"]
mod framing;
#[path = "rules/hops.rs"]
mod hops;
#[expect(dead_code, reason = "shared with the tests of the proxy, which use all of it")]
#[path = "proxy/instance.rs"]
mod instance;
#[expect(dead_code, reason = "shared with the tests of the proxy, which use the rest of it")]
#[path = "proxy/peer.rs"]
mod peer;
#[expect(dead_code, reason = "shared with the tests of the proxy, which use all of it")]
#[path = "proxy/rig.rs"]
mod rig;
#[path = "rules/stage.rs"]
mod stage;
#[path = "rules/target.rs"]
mod target;
#[path = "rules/upgrade.rs"]
mod upgrade;
