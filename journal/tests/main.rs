//! The journal's tests: one binary, one module a subject.
//!
//! A failing property prints its seed; `PROPTEST_RNG_SEED=<seed>` runs it again, and
//! `PROPTEST_CASES=<n>` sets how many are tried.

mod api;
mod checkpoint;
mod common;
mod damage;
mod golden;
mod model;
mod read;
mod sled;
