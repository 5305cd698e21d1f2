//! Black-box tests of the shipped `haul` binary against real servers, kills and faults.
//!
//! Nothing here links the engine: a test starts servers, runs `haul` as a person would, breaks something, and
//! compares bytes. `tests/run` installs the servers; a missing one fails the tests that need it.
//!
//! Every random choice comes from one seed, printed by each test that uses it (libtest shows it for a failed
//! one) and taken back from `HAUL_TEST_SEED`. `HAUL_TEST_KILLS` sets how many kills the kill tests do.

mod support {
    pub mod certs;
    pub mod device;
    pub mod files;
    pub mod haul;
    pub mod killer;
    pub mod mount;
    pub mod process;
    pub mod proxy;
    pub mod scripted;
    pub mod seed;
    pub mod servers;
    pub mod session;
    pub mod wait;
}

mod blackbox {
    mod answers;
    mod command_line;
    mod concat;
    mod configured;
    mod damage;
    mod detached;
    mod doctor;
    mod edges;
    mod form;
    mod full_disk;
    mod groups;
    mod kills;
    mod lies;
    mod local_edges;
    mod looking;
    mod many;
    mod names;
    mod owners;
    mod put;
    mod remote;
    mod scale;
    mod secrets;
    mod segments;
    mod sizes;
    mod source;
    mod suspend;
    mod syscalls;
    mod transfers;
}
