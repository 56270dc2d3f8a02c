//! The integration tests: the real binary between real servers, and scripted ones where a real server cannot be
//! made to misbehave. One test binary, so that it links once and starts one SeaweedFS.

mod support;

mod harness;
