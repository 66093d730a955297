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

        static ENDS: &[Ends] = &[$(Ends::of_text($text.as_bytes())),*];
    };
}

names! {
    Te = "te",
    Via = "via",
    Host = "host",
    Date = "date",
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
    XForwardedPrefix = "x-forwarded-prefix",
    OutriggerVia = "x-outrigger-via",
    OutriggerRetry = "x-outrigger-retry",
    OutriggerTimeout = "x-outrigger-timeout",
    OutriggerError = "x-outrigger-error",
    GrpcRetryPushback = "grpc-retry-pushback-ms",
}

/// A set of names that are recognised; [`Name::Other`] is in none.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct NameSet(u64);

impl NameSet {
    /// The set of these names.
    pub const fn of<const N: usize>(names: [Name; N]) -> Self {
        let (mut set, mut at) = (Self(0), 0);
        while at < N {
            set = set.with(names[at]);
            at += 1;
        }
        set
    }

    /// The set with one more name.
    #[must_use]
    pub const fn with(self, name: Name) -> Self {
        Self((self.0 | name.bit()) & !Name::Other.bit())
    }

    /// The names of both sets.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the name is in the set.
    pub const fn contains(self, name: Name) -> bool {
        self.0 & name.bit() != 0
    }
}

impl Name {
    /// The name of `bytes`, whatever their case.
    pub fn recognize(bytes: &[u8]) -> Self {
        // Length, first byte and, for a few, last byte leave one name that it can be.
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return Self::Other };
        let candidate = match (bytes.len(), first | 0x20, last | 0x20) {
            (2, b't', _) => Self::Te,
            (3, b'v', _) => Self::Via,
            (4, b'd', _) => Self::Date,
            (4, b'h', _) => Self::Host,
            (6, b'c', _) => Self::Cookie,
            (6, b'e', _) => Self::Expect,
            (6, b'o', _) => Self::Origin,
            (7, b't', _) => Self::Trailer,
            (7, b'u', _) => Self::Upgrade,
            (10, b'c', _) => Self::Connection,
            (10, b'k', _) => Self::KeepAlive,
            (10, b's', _) => Self::SetCookie,
            (10, b'u', _) => Self::UserAgent,
            (11, b'r', _) => Self::RetryAfter,
            (12, b'c', _) => Self::ContentType,
            (12, b'g', _) => Self::GrpcTimeout,
            (12, b'm', _) => Self::MaxForwards,
            (13, b'a', _) => Self::Authorization,
            (13, b'c', _) => Self::ContentRange,
            (14, b'c', _) => Self::ContentLength,
            (14, b'h', _) => Self::Http2Settings,
            (14, b's', _) => Self::SecFetchSite,
            (15, b'i', _) => Self::IdempotencyKey,
            (15, b'x', b'a') => Self::OutriggerVia,
            (15, b'x', b'r') => Self::XForwardedFor,
            (16, b'c', _) => Self::ContentEncoding,
            (16, b'p', _) => Self::ProxyConnection,
            (16, b'w', _) => Self::WwwAuthenticate,
            (16, b'x', _) => Self::XForwardedHost,
            (17, b't', _) => Self::TransferEncoding,
            (17, b'x', b'o') => Self::XForwardedProto,
            (17, b'x', b'r') => Self::OutriggerError,
            (17, b'x', b'y') => Self::OutriggerRetry,
            (18, b'p', _) => Self::ProxyAuthenticate,
            (18, b'x', _) => Self::XForwardedPrefix,
            (19, b'p', _) => Self::ProxyAuthorization,
            (19, b'x', _) => Self::OutriggerTimeout,
            (22, b'g', _) => Self::GrpcRetryPushback,
            _ => return Self::Other,
        };
        let is_it = match ENDS.get(candidate as usize) {
            // Up to 16 bytes, the first eight and the last eight are all of them.
            Some(ends) if bytes.len() <= 16 => ends.are_those_of(bytes),
            _ => is_same(bytes, candidate.as_str().as_bytes()),
        };
        if is_it { candidate } else { Self::Other }
    }

    /// The bit of this name in a set of names.
    pub(crate) const fn bit(self) -> u64 {
        1 << self as u64
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
                | Self::OutriggerVia
                | Self::OutriggerRetry
                | Self::OutriggerTimeout
                | Self::OutriggerError
        )
    }

    /// Whether a name is one of a family of which each member is strict ([`Name::is_strict`]), known or not: `Proxy-…`,
    /// `X-Outrigger-…`.
    pub(crate) fn has_strict_prefix(name: &[u8]) -> bool {
        ["proxy-", "x-outrigger-"].iter().any(|prefix| {
            name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
        })
    }

    /// Whether the field is always that of one hop (RFC 9110 §7.6.1), whatever `Connection` names.
    pub(crate) fn is_hop_by_hop(self) -> bool {
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

    /// Whether the field may not stand in a trailer section, because it frames, routes, steers or authenticates the message
    /// (RFC 9110 §6.5.1). Such a trailer field is dropped; those of the families `Proxy-…` and `X-Outrigger-…`, too.
    pub(crate) fn is_forbidden_in_trailers(self) -> bool {
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
                    | Self::Via
                    | Self::XForwardedFor
                    | Self::XForwardedProto
                    | Self::XForwardedHost
                    | Self::XForwardedPrefix
                    | Self::GrpcTimeout
                    | Self::IdempotencyKey
            )
    }
}

/// The first and the last bytes of a name as numbers: eight each; four, or two, where the name is shorter.
#[derive(Debug)]
struct Ends {
    first: u64,
    last: u64,
    /// The bit 0x20 at each letter.
    first_letters: u64,
    last_letters: u64,
}

impl Ends {
    const fn of_text(text: &[u8]) -> Self {
        const LETTER: u64 = 0x4040_4040_4040_4040;
        let (first, last) = ends(text);
        Self { first, last, first_letters: (first & LETTER) >> 1, last_letters: (last & LETTER) >> 1 }
    }

    /// Whether `bytes`, of the same length, has these ends in any case.
    fn are_those_of(&self, bytes: &[u8]) -> bool {
        let (first, last) = ends(bytes);
        first | self.first_letters == self.first && last | self.last_letters == self.last
    }
}

const fn ends(bytes: &[u8]) -> (u64, u64) {
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return (u32::from_le_bytes(*first) as u64, u32::from_le_bytes(*last) as u64);
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        return (u16::from_le_bytes(*first) as u64, u16::from_le_bytes(*last) as u64);
    }
    (0, 0)
}

/// Whether `bytes` is `text` in any case. `text` is in lower case, and of its bytes only letters have the bit 0x40: a name of
/// the table, `close`, `keep-alive`.
pub(crate) fn is_same(bytes: &[u8], text: &[u8]) -> bool {
    if bytes.len() != text.len() {
        return false;
    }
    let word = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
    let is_same_word = |bytes: &[u8; 8], text: &[u8; 8]| {
        let letters = (word(text) & 0x4040_4040_4040_4040) >> 1;
        word(bytes) | letters == word(text)
    };
    // The last eight bytes overlap the ones before, so that no rest of another length is left.
    let (Some(end), Some(text_end)) = (bytes.last_chunk(), text.last_chunk()) else {
        return bytes.eq_ignore_ascii_case(text);
    };
    let words = bytes.chunks_exact(8).zip(text.chunks_exact(8));
    is_same_word(end, text_end)
        && words
            .filter_map(|(bytes, text)| bytes.first_chunk().zip(text.first_chunk()))
            .all(|(bytes, text)| is_same_word(bytes, text))
}
