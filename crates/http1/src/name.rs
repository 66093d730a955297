//! The field names that matter to a proxy, recognised while a head is parsed.

macro_rules! names {
    ($($variant:ident = $text:literal),* $(,)?) => {
        /// A field name that matters to a proxy, or [`Name::Other`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Name {
            $(#[doc = concat!("`", $text, "`")] $variant,)*
            /// Every other name.
            Other,
        }

        impl Name {
            /// Every name that is recognised, in lower case.
            pub const ALL: &[(Self, &'static str)] = &[$((Self::$variant, $text)),*];
        }
    };
}

names! {
    Te = "te",
    Via = "via",
    Host = "host",
    Upgrade = "upgrade",
    Trailer = "trailer",
    Expect = "expect",
    Origin = "origin",
    Connection = "connection",
    KeepAlive = "keep-alive",
    UserAgent = "user-agent",
    RetryAfter = "retry-after",
    Authorization = "authorization",
    MaxForwards = "max-forwards",
    GrpcTimeout = "grpc-timeout",
    ContentType = "content-type",
    ContentRange = "content-range",
    ContentLength = "content-length",
    ContentEncoding = "content-encoding",
    Http2Settings = "http2-settings",
    SecFetchSite = "sec-fetch-site",
    SetCookie = "set-cookie",
    Cookie = "cookie",
    IdempotencyKey = "idempotency-key",
    ProxyConnection = "proxy-connection",
    ProxyAuthenticate = "proxy-authenticate",
    ProxyAuthorization = "proxy-authorization",
    WwwAuthenticate = "www-authenticate",
    TransferEncoding = "transfer-encoding",
    XForwardedFor = "x-forwarded-for",
    XForwardedProto = "x-forwarded-proto",
    XForwardedHost = "x-forwarded-host",
    OutriggerRetry = "x-outrigger-retry",
    OutriggerTimeout = "x-outrigger-timeout",
    OutriggerError = "x-outrigger-error",
    GrpcRetryPushback = "grpc-retry-pushback-ms",
}

impl Name {
    /// The name of `bytes`, whatever their case.
    pub fn recognize(bytes: &[u8]) -> Self {
        let candidates: &[Self] = match bytes.len() {
            2 => &[Self::Te],
            3 => &[Self::Via],
            4 => &[Self::Host],
            6 => &[Self::Expect, Self::Origin, Self::Cookie],
            7 => &[Self::Upgrade, Self::Trailer],
            10 => &[Self::Connection, Self::KeepAlive, Self::UserAgent, Self::SetCookie],
            11 => &[Self::RetryAfter],
            12 => &[Self::ContentType, Self::GrpcTimeout, Self::MaxForwards],
            13 => &[Self::Authorization, Self::ContentRange],
            14 => &[Self::ContentLength, Self::Http2Settings, Self::SecFetchSite],
            15 => &[Self::IdempotencyKey, Self::XForwardedFor],
            16 => {
                &[Self::ContentEncoding, Self::ProxyConnection, Self::XForwardedHost, Self::WwwAuthenticate]
            }
            17 => {
                &[Self::TransferEncoding, Self::XForwardedProto, Self::OutriggerRetry, Self::OutriggerError]
            }
            18 => &[Self::ProxyAuthenticate],
            19 => &[Self::OutriggerTimeout, Self::ProxyAuthorization],
            22 => &[Self::GrpcRetryPushback],
            _ => &[],
        };
        candidates
            .iter()
            .copied()
            .find(|name| bytes.eq_ignore_ascii_case(name.as_str().as_bytes()))
            .unwrap_or(Self::Other)
    }

    /// The name in lower case; empty for [`Name::Other`].
    pub fn as_str(self) -> &'static str {
        match Self::ALL.get(self as usize) {
            Some((_, text)) => text,
            None => "",
        }
    }

    /// Whether the field frames, routes or steers a message. Its value may hold no control character: a receiver that
    /// ignores one reads another message (`Transfer-Encoding: \x0bchunked`).
    pub fn is_strict(self) -> bool {
        matches!(
            self,
            Self::Host
                | Self::ContentLength
                | Self::TransferEncoding
                | Self::Connection
                | Self::Te
                | Self::Trailer
                | Self::Upgrade
                | Self::Expect
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::ProxyAuthenticate
                | Self::ProxyAuthorization
                | Self::OutriggerRetry
                | Self::OutriggerTimeout
                | Self::OutriggerError
        )
    }

    /// Whether the field is always that of one hop (RFC 9110 §7.6.1), whatever `Connection` names.
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::TransferEncoding
                | Self::Te
                | Self::Upgrade
                | Self::KeepAlive
                | Self::ProxyConnection
        )
    }

    /// Whether the field may not stand in a trailer section, because it frames, routes or authenticates the message
    /// (RFC 9110 §6.5.1). Such a trailer field is dropped.
    pub fn is_forbidden_in_trailers(self) -> bool {
        self.is_strict()
            || self.is_hop_by_hop()
            || matches!(
                self,
                Self::Authorization
                    | Self::WwwAuthenticate
                    | Self::Cookie
                    | Self::SetCookie
                    | Self::ContentType
                    | Self::ContentRange
                    | Self::ContentEncoding
                    | Self::MaxForwards
                    | Self::Http2Settings
                    | Self::Origin
                    | Self::SecFetchSite
                    | Self::RetryAfter
            )
    }
}
