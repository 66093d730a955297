//! The few facts of a certificate that people are told: until when it holds, and its names. It decides nothing: verification is
//! that of the TLS library.

use std::net::{Ipv4Addr, Ipv6Addr};

use rustls_pki_types::UnixTime;

/// The tags of DER (X.690 §8.1.2) that occur here.
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// The kinds of a GeneralName (RFC 5280 §4.2.1.6).
const DNS_NAME: u8 = 0x82;
const URI: u8 = 0x86;
const IP_ADDRESS: u8 = 0x87;

/// subjectAltName, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

const DAY: i64 = 86_400;

/// What is read of a certificate (RFC 5280 §4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The first second of its time, in seconds since 1970.
    pub not_before: i64,
    /// The last second of its time.
    pub not_after: i64,
    /// Its alternative names: host names in lower case, addresses, URIs as they stand.
    pub names: Vec<String>,
}

impl CertificateFacts {
    /// Reads a certificate in DER. `None`: it is none.
    pub fn of(der: &[u8]) -> Option<Self> {
        let mut outer = Der(der);
        let mut certificate = Der(outer.value(SEQUENCE)?);
        let mut fields = Der(certificate.value(SEQUENCE)?);
        fields.value_if(VERSION);
        fields.value(INTEGER)?;
        // The algorithm of the signature, and the issuer.
        fields.value(SEQUENCE)?;
        fields.value(SEQUENCE)?;
        let mut validity = Der(fields.value(SEQUENCE)?);
        let (not_before, not_after) = (validity.time()?, validity.time()?);
        // The subject, and its key.
        fields.value(SEQUENCE)?;
        fields.value(SEQUENCE)?;
        let mut names = Vec::new();
        while let Some((tag, content)) = fields.next() {
            if tag == EXTENSIONS {
                names = alternative_names(content).unwrap_or_default();
            }
        }
        Some(Self { not_before, not_after, names })
    }

    /// Whether its time is over at `now`.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        self.not_after < now.as_secs().cast_signed()
    }
}

fn alternative_names(extensions: &[u8]) -> Option<Vec<String>> {
    let mut all = Der(Der(extensions).value(SEQUENCE)?);
    while let Some((_, extension)) = all.next() {
        let mut extension = Der(extension);
        if extension.value(OBJECT)? != SUBJECT_ALT_NAME {
            continue;
        }
        // Between the two may be whether it is critical.
        let value = std::iter::from_fn(|| extension.next()).find(|(tag, _)| *tag == OCTET_STRING)?.1;
        let mut names = Der(Der(value).value(SEQUENCE)?);
        return Some(std::iter::from_fn(|| names.next()).filter_map(name_text).collect());
    }
    Some(Vec::new())
}

fn name_text((kind, content): (u8, &[u8])) -> Option<String> {
    let text = || std::str::from_utf8(content).ok().filter(|text| text.bytes().all(|b| b.is_ascii_graphic()));
    match kind {
        DNS_NAME => text().map(str::to_ascii_lowercase),
        URI => text().map(str::to_owned),
        IP_ADDRESS => {
            let four = <[u8; 4]>::try_from(content).map(|bytes| Ipv4Addr::from(bytes).to_string());
            four.or_else(|_| <[u8; 16]>::try_from(content).map(|bytes| Ipv6Addr::from(bytes).to_string()))
                .ok()
        }
        _ => None,
    }
}

/// Values of DER, one after the other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next value: its tag, and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (len, rest) = match *first {
            short @ ..=0x7f => (usize::from(short), rest),
            // So many bytes of length follow; a certificate has no value of 4 GiB.
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// The content of the next value, if it has this tag.
    fn value(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// Passes over the next value, if it has this tag.
    fn value_if(&mut self, tag: u8) {
        if self.0.first() == Some(&tag) {
            self.next();
        }
    }

    /// A UTCTime or a GeneralizedTime, in seconds since 1970 (RFC 5280 §4.1.2.5).
    fn time(&mut self) -> Option<i64> {
        let (tag, text) = self.next()?;
        let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
        let number = |from: usize, len: usize| {
            let digits = text.get(from..from + len)?;
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse::<i64>().ok()).flatten()
        };
        let (year, rest) = match tag {
            UTC_TIME => (number(0, 2).map(|year| if year < 50 { 2000 + year } else { 1900 + year })?, 2),
            GENERALIZED_TIME => (number(0, 4)?, 4),
            _ => return None,
        };
        let (month, day) = (number(rest, 2)?, number(rest + 2, 2)?);
        let (hour, minute, second) = (number(rest + 4, 2)?, number(rest + 6, 2)?, number(rest + 8, 2)?);
        Some(days_since_1970(year, month, day) * DAY + hour * 3600 + minute * 60 + second)
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, counted in years that begin in March.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The day of a time in seconds since 1970, in UTC, as `2026-11-01`.
pub(super) fn format_day(seconds: i64) -> String {
    let days = seconds.div_euclid(DAY) + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};

    use super::*;

    #[test]
    fn times_and_names_are_those_of_the_certificate() {
        let mut params = CertificateParams::new(["Orders.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2024, 2, 29);
        params.not_after = date_time_ymd(2051, 11, 1);
        params.subject_alt_names.push(SanType::IpAddress("10.0.0.7".parse::<IpAddr>().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress("fd00::7".parse::<IpAddr>().unwrap()));
        params.subject_alt_names.push(SanType::URI("spiffe://Example/svc/orders".try_into().unwrap()));
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let facts = CertificateFacts::of(&der).unwrap();
        let days = [facts.not_before, facts.not_after].map(format_day);
        assert_eq!(days, ["2024-02-29", "2051-11-01"]);
        assert_eq!(facts.names, ["orders.example", "10.0.0.7", "fd00::7", "spiffe://Example/svc/orders"]);
        let at = |seconds: i64| {
            UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds.cast_unsigned()))
        };
        assert!(!facts.is_expired(at(facts.not_after)));
        assert!(facts.is_expired(at(facts.not_after + 1)));
        // No cut of it is read beyond its end, and none is taken for a certificate.
        for len in 0..der.len() {
            assert_eq!(CertificateFacts::of(&der[..len]), None, "{len}");
        }
        // No change of a byte panics.
        for at in 0..der.len() {
            for value in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut other = der.clone();
                other[at] = value;
                let _ = CertificateFacts::of(&other);
            }
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, day) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_793_491_200, "2026-11-01"),
            (4_107_542_400, "2100-03-01"),
            (-1, "1969-12-31"),
        ] {
            assert_eq!(format_day(seconds), day);
        }
        for day in (-200_000..200_000).map(|days| days * DAY) {
            let text = format_day(day);
            let mut parts = text.rsplitn(3, '-').map(|part| part.parse::<i64>().unwrap());
            let (of_month, month, year) =
                (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            assert_eq!(days_since_1970(year, month, of_month) * DAY, day, "{text}");
        }
    }
}
