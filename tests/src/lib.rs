//! Black-box tests: they drive the built binary as a user does. The tests are in `tests/`.
#![forbid(unsafe_code)]
