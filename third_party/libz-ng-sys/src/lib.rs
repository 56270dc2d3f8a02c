//! Pingora asks for zlib-ng through flate2, and zlib-ng's build needs cmake. hopfall never compresses,
//! so the same API from stock zlib (built by the C compiler that `ring` needs anyway) stands in, and
//! a plain `cargo build` works. See `docs/decisions/0003-no-cmake.md`.
pub use libz_sys::*;
