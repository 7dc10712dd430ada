//! Why a request ended otherwise than well: one bounded list for status, log and metric label.
//! Knows nothing of sockets; the variants of routing and of the upstream are set by the driver.

/// Declares [`Reason`] as rows of `Variant status "code" "label" "sentence"`.
macro_rules! reasons {
    ($($variant:ident $status:literal $code:literal $label:literal $text:literal;)*) => {
        /// The reason a request was refused, failed or was cut.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $text] $variant,)*
        }

        impl Reason {
            /// Every reason, in declaration order: the label set of a metric.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The label of logs and metrics, also named in the body of a local reply.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $label,)* }
            }

            /// The status sent to the client, or logged when nothing can be sent.
            pub const fn status(self) -> u16 {
                match self { $(Reason::$variant => $status,)* }
            }

            /// The two-letter termination code: who ended it first, and in which phase.
            pub const fn code(self) -> &'static str {
                match self { $(Reason::$variant => $code,)* }
            }

            /// One sentence for a person.
            pub const fn explain(self) -> &'static str {
                match self { $(Reason::$variant => $text,)* }
            }
        }
    };
}

// Codes are HAProxy's. First letter: C client closed, S upstream closed or refused, P the router
// refused, R a resource ran out, I internal, c client timeout, s upstream timeout. Second letter:
// R request head, Q waiting, C connect, H response head, D data, L last bytes to the client.
reasons! {
    BadRequestLine 400 "PR" "bad_request_line" "the request line is not METHOD TARGET VERSION";
    BadLineEnd 400 "PR" "bad_line_end" "a line of the head does not end in CRLF";
    BadHeaderName 400 "PR" "bad_header_name" "a header name has a byte that no token has";
    BadHeaderValue 400 "PR" "bad_header_value" "a header value has a control byte";
    SpaceBeforeColon 400 "PR" "space_before_colon" "a header name is followed by white space";
    SpaceBeforeHeader 400 "PR" "space_before_header" "the first header line starts with white space";
    FoldedHeader 400 "PR" "folded_header" "a header is folded over two lines";
    UnsupportedVersion 505 "PR" "unsupported_version" "the protocol version is neither HTTP/1.0 nor HTTP/1.1";
    UriTooLong 414 "PR" "uri_too_long" "the request target is longer than allowed";
    HeadersTooLarge 431 "PR" "headers_too_large" "the request head is larger than allowed";
    TooManyHeaders 431 "PR" "too_many_headers" "the request has more headers than allowed";
    BadTarget 400 "PR" "bad_target" "the request target has no form that the method allows";
    FragmentInTarget 400 "PR" "fragment_in_target" "the request target has a fragment";
    BadPathEncoding 400 "PR" "bad_path_encoding" "the path has a broken or forbidden percent-encoding";
    MissingHost 400 "PR" "missing_host" "an HTTP/1.1 request has no Host header";
    RepeatedHost 400 "PR" "repeated_host" "the request has more than one Host header";
    BadHost 400 "PR" "bad_host" "the host is not a valid name or address";
    LengthAndChunked 400 "PR" "length_and_chunked" "the request has both Content-Length and Transfer-Encoding";
    BadContentLength 400 "PR" "bad_content_length" "the Content-Length is not one decimal number";
    RepeatedContentLength 400 "PR" "repeated_content_length" "the request has more than one Content-Length";
    BadTransferEncoding 400 "PR" "bad_transfer_encoding" "the Transfer-Encoding is not exactly chunked";
    ChunkedInOldVersion 400 "PR" "chunked_in_old_version" "an HTTP/1.0 request has a Transfer-Encoding";
    UnknownTransferCoding 501 "PR" "unknown_transfer_coding" "the request uses a transfer coding that is not supported";
    UnknownExpectation 417 "PR" "unknown_expectation" "the Expect header asks for something other than 100-continue";
    UpgradeWithBody 400 "PR" "upgrade_with_body" "a request to upgrade the connection has a body";
    TooManyOptions 400 "PR" "too_many_options" "the Connection header lists more options than allowed";
    ConnectRefused 501 "PR" "connect_refused" "the CONNECT method is not served here";
    BadChunk 400 "PD" "bad_chunk" "the chunked body of the request is malformed";
    BadTrailer 400 "PD" "bad_trailer" "the trailer section of the request is malformed";
    TrailerTooLarge 431 "PD" "trailer_too_large" "the trailer section of the request is larger than allowed";
    BodyTooLarge 413 "PD" "body_too_large" "the request body is larger than allowed";
    RequestTimeout 408 "cR" "request_timeout" "the request head did not arrive in time";
    BodyTimeout 408 "cD" "body_timeout" "the request body stalled";
    ClientGone 499 "CH" "client_gone" "the client closed before the response began";
    ClientBodyCut 499 "CD" "client_body_cut" "the client closed in the middle of its request body";
    ClientGoneInBody 499 "CL" "client_gone_in_body" "the client closed in the middle of the response";
    ClientWriteTimeout 499 "cL" "client_write_timeout" "the client stopped reading the response";
    PlainHttp 400 "PR" "plain_http" "a plain HTTP request came to a port that speaks TLS: use https";
    HandshakeFailed 400 "PR" "handshake_failed" "the TLS handshake failed";
    HandshakeTimeout 408 "cR" "handshake_timeout" "the TLS handshake took too long";
    NoRoute 404 "PR" "no_route" "no route matches this host and path";
    LoopDetected 508 "PR" "loop_detected" "the request has passed through this router before";
    Misdirected 421 "PR" "misdirected" "this host is not served on this connection";
    BadReference 500 "PR" "bad_reference" "the route names a service that does not exist";
    NoInstance 503 "SC" "no_instance" "no instance of the service takes traffic";
    Overloaded 503 "RQ" "overloaded" "the router has no room for another request";
    QueueTimeout 503 "sQ" "queue_timeout" "no instance became free in time";
    Draining 503 "PR" "draining" "the router is shutting down";
    UpstreamConnectRefused 502 "SC" "upstream_connect_refused" "the instance refused the connection";
    UpstreamConnectFailed 502 "SC" "upstream_connect_failed" "the instance could not be reached";
    UpstreamConnectTimeout 504 "sC" "upstream_connect_timeout" "the instance did not accept the connection in time";
    UpstreamTlsFailed 502 "SC" "upstream_tls_failed" "the TLS handshake with the instance failed";
    UpstreamReset 502 "SH" "upstream_reset" "the instance reset the connection before it answered";
    UpstreamClosed 502 "SH" "upstream_closed" "the instance closed the connection before it answered";
    UpstreamTimeout 504 "sH" "upstream_timeout" "the instance did not answer in time";
    UpstreamBadResponse 502 "PH" "upstream_bad_response" "the instance sent a malformed response head";
    UpstreamHeadTooLarge 502 "PH" "upstream_head_too_large" "the instance sent a response head larger than allowed";
    UpstreamTooManyInterim 502 "PH" "upstream_too_many_interim" "the instance sent more interim responses than allowed";
    UpstreamBadLength 502 "PH" "upstream_bad_length" "the instance sent an invalid or contradictory Content-Length";
    UpstreamBadUpgrade 502 "PH" "upstream_bad_upgrade" "the instance switched to a protocol that was not asked for";
    UpstreamBadCoding 502 "PH" "upstream_bad_coding" "the instance used a transfer coding that the client cannot read";
    UpstreamBadChunk 502 "PD" "upstream_bad_chunk" "the chunked body of the response is malformed";
    UpstreamBodyCut 502 "SD" "upstream_body_cut" "the instance closed in the middle of the response";
    UpstreamBodyTimeout 504 "sD" "upstream_body_timeout" "the response body stalled";
    TunnelIdle 504 "sD" "tunnel_idle" "nothing passed through the tunnel for too long";
    DrainCut 503 "PD" "drain_cut" "the drain ended before the request did";
    Internal 500 "IR" "internal" "the router failed";
}

// Long enough to let a burst pass, short enough that a person who reloads is served.
const RETRY_AFTER_S: u32 = 1;

impl Reason {
    /// Seconds for `Retry-After`, on the replies where trying again may help.
    pub const fn retry_after_s(self) -> Option<u32> {
        if self.status() == 503 { Some(RETRY_AFTER_S) } else { None }
    }

    /// The registered type of `Proxy-Status` that comes nearest (RFC 9209 §2.3).
    pub const fn proxy_error(self) -> &'static str {
        use Reason::*;
        match self {
            NoRoute | Misdirected => "destination_not_found",
            LoopDetected => "proxy_loop_detected",
            BadReference => "proxy_configuration_error",
            NoInstance => "destination_unavailable",
            Overloaded | QueueTimeout => "connection_limit_reached",
            Draining | DrainCut => "proxy_internal_response",
            UpstreamConnectRefused => "connection_refused",
            UpstreamConnectFailed => "destination_ip_unroutable",
            UpstreamConnectTimeout => "connection_timeout",
            UpstreamTlsFailed => "tls_protocol_error",
            UpstreamReset | UpstreamClosed => "connection_terminated",
            UpstreamTimeout | UpstreamBodyTimeout => "http_response_timeout",
            UpstreamBadResponse | UpstreamBadLength | UpstreamTooManyInterim => {
                "http_protocol_error"
            }
            UpstreamHeadTooLarge => "http_response_header_section_size",
            UpstreamBadUpgrade => "http_upgrade_failed",
            UpstreamBadCoding | UpstreamBadChunk => "http_response_transfer_coding",
            UpstreamBodyCut => "http_response_incomplete",
            TunnelIdle => "connection_read_timeout",
            ConnectRefused => "http_request_denied",
            Internal => "proxy_internal_error",
            BadRequestLine
            | BadLineEnd
            | BadHeaderName
            | BadHeaderValue
            | SpaceBeforeColon
            | SpaceBeforeHeader
            | FoldedHeader
            | UnsupportedVersion
            | UriTooLong
            | HeadersTooLarge
            | TooManyHeaders
            | BadTarget
            | FragmentInTarget
            | BadPathEncoding
            | MissingHost
            | RepeatedHost
            | BadHost
            | LengthAndChunked
            | BadContentLength
            | RepeatedContentLength
            | BadTransferEncoding
            | ChunkedInOldVersion
            | UnknownTransferCoding
            | UnknownExpectation
            | UpgradeWithBody
            | TooManyOptions
            | BadChunk
            | BadTrailer
            | TrailerTooLarge
            | BodyTooLarge
            | PlainHttp
            | HandshakeFailed
            | HandshakeTimeout
            | RequestTimeout
            | BodyTimeout
            | ClientGone
            | ClientBodyCut
            | ClientGoneInBody
            | ClientWriteTimeout => "http_request_error",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.explain())
    }
}

impl std::error::Error for Reason {}

#[cfg(test)]
mod tests {
    use super::Reason;
    use std::collections::HashSet;

    #[test]
    fn every_label_is_unique_and_safe_as_a_metric_label() {
        let mut seen = HashSet::new();
        for reason in Reason::ALL {
            let label = reason.as_str();
            assert!(seen.insert(label), "{label} is used twice");
            assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{label}");
            assert_eq!(reason.code().len(), 2, "{label}");
            assert!((400..=599).contains(&reason.status()), "{label}");
        }
    }

    #[test]
    fn only_503_asks_the_client_to_come_back() {
        for reason in Reason::ALL {
            assert_eq!(reason.retry_after_s().is_some(), reason.status() == 503);
        }
    }
}
