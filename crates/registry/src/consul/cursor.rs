//! The cursor of the next blocking query. Pure.
//!
//! A server that was restarted without its data, or another server, counts from lower numbers. A query with
//! an index above the index of the server sleeps through changes until its wait is over; so an index that
//! went back starts the watch again. Only the index of an answer with status 200 is used: failed reads
//! carry a meaningless `X-Consul-Index: 1`.

use crate::Cursor;

/// The cursor after an answer with this `X-Consul-Index` to a query that was sent with `sent`, and whether
/// the index went back.
pub(super) fn next_cursor(sent: Cursor, header: Option<&str>) -> (Cursor, bool) {
    match header.and_then(|text| text.parse::<u64>().ok()) {
        Some(index) if index < sent.0 => (Cursor::START, true),
        Some(index) => (Cursor(index), false),
        None => (Cursor::START, false),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_next(sent: u64, header: Option<&str>, cursor: u64, went_back: bool) {
        assert_eq!(
            next_cursor(Cursor(sent), header),
            (Cursor(cursor), went_back),
            "sent {sent}, header {header:?}"
        );
    }

    #[test]
    fn the_next_query_has_the_index_of_the_answer() {
        assert_next(0, Some("23"), 23, false);
        assert_next(23, Some("24"), 24, false);
        assert_next(23, Some("23"), 23, false);
        assert_next(0, Some("18446744073709551615"), u64::MAX, false);
    }

    #[test]
    fn an_index_that_went_back_starts_the_watch_again() {
        assert_next(33, Some("12"), 0, true);
        assert_next(33, Some("32"), 0, true);
    }

    #[test]
    fn a_zero_index_starts_the_watch_again() {
        assert_next(33, Some("0"), 0, true);
        assert_next(0, Some("0"), 0, false);
    }

    #[test]
    fn an_absent_or_unreadable_index_starts_the_watch_again() {
        for header in [None, Some(""), Some("x"), Some("-1"), Some("1.5"), Some("18446744073709551616")] {
            assert_next(33, header, 0, false);
        }
    }

    proptest! {
        #[test]
        fn the_next_query_never_asks_above_the_server_s_index(sent: u64, index: u64) {
            let (cursor, went_back) = next_cursor(Cursor(sent), Some(&index.to_string()));
            prop_assert!(cursor.index() <= index);
            prop_assert_eq!(went_back, index < sent);
            prop_assert!(!went_back || cursor == Cursor::START);
        }

        #[test]
        fn no_header_text_panics(sent: u64, header: String) {
            next_cursor(Cursor(sent), Some(&header));
        }
    }
}
