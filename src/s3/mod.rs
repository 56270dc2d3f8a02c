//! What S3 asks of us, as pure functions: keys, signatures, and what its answers mean.

pub mod answer;
pub mod cost;
pub mod key;
pub mod sign;
