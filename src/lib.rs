pub mod fallback;
pub mod headers;
pub mod health;
pub mod hop;
pub mod s3;
pub mod shape;
pub mod units;
pub mod via;
