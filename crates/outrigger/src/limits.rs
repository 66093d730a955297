//! How many files this process may open. A sidecar needs one per connection, on both sides. With a limit
//! of 1,024, an app with 10,000 connections gets errors that look like network errors.

use tracing::warn;

/// A busy app needs more than this.
const MIN_OPEN_FILES: u64 = 4096;

/// Logs a warning when the limit is below [`MIN_OPEN_FILES`].
pub(crate) fn warn_when_low() {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(limit) = low_limit(&limits) {
        warn!(
            limit,
            "the limit of open files is low, and each connection needs one: raise it to 65536 \
             (systemd: LimitNOFILE=65536, a shell: ulimit -n 65536, docker: --ulimit nofile=65536)"
        );
    }
}

/// The limit, when it is low.
fn low_limit(limits: &str) -> Option<u64> {
    open_file_limit(limits).filter(|limit| *limit < MIN_OPEN_FILES)
}

/// The soft limit. `None`: unlimited, or unknown.
fn open_file_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             15000                15000                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_file_limit(limits), Some(1024));
        assert_eq!(open_file_limit(&limits.replace("1024 ", "unlimited ")), None);
        assert_eq!(open_file_limit(""), None);
        for (soft, expected) in [("1024", Some(1024)), ("4095", Some(4095)), ("4096", None), ("65536", None)]
        {
            assert_eq!(low_limit(&limits.replace("1024 ", &format!("{soft} "))), expected);
        }
    }
}
