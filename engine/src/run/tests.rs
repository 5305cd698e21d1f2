//! What the loop makes of single inputs.

use std::path::PathBuf;

use super::*;
use crate::job::Token;
use crate::job::record::{Jobs, Record};
use crate::protocol::ProtocolId;

#[test]
fn only_a_job_s_own_host_shows_that_there_is_a_way_to_it() {
    let spec = JobSpec {
        mirrors: vec!["http://mirror/f".to_owned(), "http://own/g".to_owned()],
        ..JobSpec::new(ProtocolId::Segments, "http://own/f".to_owned(), PathBuf::from("/d"), Token([0; 16]))
    };
    let mut jobs = Jobs::default();
    let born = Record::Submitted { id: JobId(1), at: WallMs(1), spec: Box::new(spec) };
    jobs.apply(born).expect("new");
    let job = &jobs.map[&JobId(1)];
    assert!(is_of_host(job, "http://own/f"));
    assert!(is_of_host(job, "http://elsewhere/f"), "where its own host's redirect has led");
    assert!(!is_of_host(job, "http://mirror/f"));
}
