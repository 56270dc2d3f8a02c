//! Moments as Unix time.

use std::time::SystemTime;

/// Seconds since 1970; 0 before.
pub fn seconds(moment: SystemTime) -> u64 {
    moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The same where moments before 1970 can be meant, as in a certificate.
pub fn signed_seconds(moment: SystemTime) -> i64 {
    i64::try_from(seconds(moment)).unwrap_or(i64::MAX)
}
