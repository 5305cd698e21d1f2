//! Jobs as people read them, and what their endings mean for the exit code.

use longhaul::{Direction, JobState, JobView};

use crate::exit::Exit;
use crate::output::Context;
use crate::style;
use crate::text::{self, escape};

/// Whether waiting for the job makes no more sense: it ended, or holds still until somebody acts.
pub fn is_settled(view: &JobView) -> bool {
    match view.state {
        JobState::Completed | JobState::Failed => true,
        JobState::Suspended => !clears_itself(view),
        JobState::Queued | JobState::Staged | JobState::Sending => false,
    }
}

/// Whether the engine takes a suspended job up again by itself.
pub fn clears_itself(view: &JobView) -> bool {
    view.cause.as_ref().is_some_and(|cause| matches!(cause.kind.as_str(), "no-space" | "source-away"))
}

/// What the job's state means for the exit code.
pub fn ending(view: &JobView) -> Exit {
    match (view.state, &view.cause) {
        (JobState::Completed, _) => Exit::Done,
        (JobState::Failed, Some(cause)) if cause.kind == "outcome-unknown" => Exit::Unknown,
        (JobState::Failed, _) => Exit::Failed,
        (JobState::Queued | JobState::Staged | JobState::Sending | JobState::Suspended, _) => Exit::Suspended,
    }
}

/// From where to where: the local end by its name for an upload, by its path for a download.
pub fn route(view: &JobView) -> String {
    match view.direction {
        Direction::Upload => {
            format!("{} → {}", escape(base_name(&view.source)), escape(&view.target))
        }
        Direction::Download => {
            let place = view.file.as_ref().unwrap_or(&view.target);
            format!("{} → {}", escape(&view.source), escape(place))
        }
    }
}

/// `3  completed  movie.mp4 → http://…  (1.2 GiB, proven by …)`
pub fn result_line(view: &JobView) -> String {
    let size = view.size.map(text::bytes);
    let remark = if view.state == JobState::Completed {
        let proof = view.evidence.as_ref().map(|evidence| format!("proven by {}", escape(evidence)));
        [size, proof].into_iter().flatten().collect::<Vec<_>>().join(", ")
    } else {
        let left = view.leftover.as_ref().map(|url| format!("left at the server: {}", escape(url)));
        [cause(view), Some(progress(view)), left].into_iter().flatten().collect::<Vec<_>>().join("; ")
    };
    format!("{}  {}  {}  ({remark})", view.id, style::stdout().state(view.state), route(view))
}

/// `412.0 MiB of 1.2 GiB, 33 %`
pub fn progress(view: &JobView) -> String {
    let done = text::bytes(view.done);
    match view.size {
        Some(size) => {
            format!("{done} of {}, {} %", text::bytes(size), text::percent(view.done, size))
        }
        None => format!("{done} of a size not known yet"),
    }
}

/// Why it is suspended or failed: the stable name, and the words where they add something.
pub fn cause(view: &JobView) -> Option<String> {
    let cause = view.cause.as_ref()?;
    let (kind, words) = (escape(&cause.kind), escape(&cause.text));
    Some(if words.is_empty() || kind == words { kind.into_owned() } else { format!("{kind}: {words}") })
}

/// What to do about a job that failed or holds still.
pub fn remedy(view: &JobView, context: &Context) -> Option<String> {
    let kind = view.cause.as_ref()?.kind.as_str();
    let resume = context.again(&format!("resume {}", view.id));
    let retry = context.again(&format!("retry {}", view.id));
    Some(match kind {
        "paused" => format!("go on with: {resume}"),
        "auth" => format!("give the token's place the right content, then: {resume}"),
        "server" => format!("when the server is well again: {resume}"),
        "destination-exists" => format!("move that file away, then: {resume}"),
        "no-access" => format!("change who may read or write there, then: {resume}"),
        "restored" => {
            let cancel = context.again(&format!("cancel {}", view.id));
            format!("the server may have all of it already; go on with: {resume}; or end it with: {cancel}")
        }
        "rejected" => format!("the server's answer is final; put right what it names, then: {retry}"),
        "source-changed" => "submit again when the file rests, or with --stage copy".to_owned(),
        "source-io" => format!("make the file readable, then: {retry}"),
        "outcome-unknown" => {
            format!("look at the target first: it may be whole; only if it is not: {retry}")
        }
        "checksum-mismatch" => "check the digest you expect; if it is right, the content is not".to_owned(),
        "remote-changed" => format!("when the remote file rests: {retry}"),
        "expired" => {
            format!("the server keeps unfinished uploads too briefly; raise its limit, or: {retry}")
        }
        "local-io" => format!("put right what it names, then: {retry}"),
        "deadline" => "submit again with a later deadline".to_owned(),
        "protocol" => {
            format!("the server is not what it seems; see: {}", context.again(&format!("log {}", view.id)))
        }
        _ => return None,
    })
}

/// The last component of a path that may be relative, odd, or end in a slash.
fn base_name(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    trimmed.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(path)
}

#[cfg(test)]
pub mod tests {
    use longhaul::{Cause, JobId};

    use super::*;

    /// A job for tests.
    pub fn job(state: JobState, cause: Option<(&str, &str)>) -> JobView {
        let value = serde_json::json!({
            "id": 3, "state": "queued", "direction": "upload", "source": "/films/movie.mp4",
            "target": "http://host/files/", "protocol": "tus", "size": 1_288_490_189_u64, "done": 644_245_095_u64,
            "attempts": 0, "cause": null, "trouble": null, "retry_at": null, "evidence": null,
            "leftover": null, "file": null, "waits_for": null, "group": null, "key": null, "priority": 5,
            "not_before": null, "deadline": null, "predecessor": null, "submitted_at": 0, "changed_at": 0,
        });
        let mut view: JobView = serde_json::from_value(value).expect("a job");
        view.id = JobId(3);
        view.state = state;
        view.cause = cause.map(|(kind, text)| Cause { kind: kind.to_owned(), text: text.to_owned() });
        view
    }

    /// A context for tests.
    pub fn context(session: &str) -> Context {
        Context { session: session.into(), dir: "/s".into(), json: false, quiet: false, verbose: false }
    }

    #[test]
    fn endings_give_exit_codes() {
        for (state, cause, exit) in [
            (JobState::Completed, None, Exit::Done),
            (JobState::Failed, Some(("cancelled", "cancelled")), Exit::Failed),
            (JobState::Failed, Some(("outcome-unknown", "…")), Exit::Unknown),
            (JobState::Suspended, Some(("paused", "paused")), Exit::Suspended),
            (JobState::Sending, None, Exit::Suspended),
        ] {
            assert_eq!(ending(&job(state, cause)), exit);
        }
    }

    #[test]
    fn only_what_does_not_clear_itself_settles() {
        assert!(is_settled(&job(JobState::Failed, None)));
        assert!(is_settled(&job(JobState::Suspended, Some(("auth", "no")))));
        assert!(!is_settled(&job(JobState::Suspended, Some(("no-space", "full")))));
        assert!(!is_settled(&job(JobState::Queued, None)));
    }

    #[test]
    fn results_name_the_file_the_target_and_the_proof() {
        let mut view = job(JobState::Completed, None);
        view.evidence = Some("HEAD offset = length".into());
        let line = "3  completed  movie.mp4 → http://host/files/  (1.2 GiB, proven by HEAD offset = length)";
        assert_eq!(result_line(&view), line);
        let failed = job(JobState::Failed, Some(("rejected", "the server refused: 404 none")));
        let line = "3  failed  movie.mp4 → http://host/files/  \
                    (rejected: the server refused: 404 none; 614.4 MiB of 1.2 GiB, 50 %)";
        assert_eq!(result_line(&failed), line);
    }

    #[test]
    fn a_hostile_name_stays_on_its_line() {
        let mut view = job(JobState::Queued, None);
        view.source = "/tmp/a\n9  completed\u{1b}[1A".into();
        assert!(!result_line(&view).contains(['\n', '\u{1b}']));
    }

    #[test]
    fn remedies_name_the_session() {
        let paused = job(JobState::Suspended, Some(("paused", "paused")));
        let text = remedy(&paused, &context("films")).expect("a remedy");
        assert_eq!(text, "go on with: haul --session films resume 3");
        let text = remedy(&paused, &context("default")).expect("a remedy");
        assert_eq!(text, "go on with: haul resume 3");
        assert_eq!(remedy(&job(JobState::Completed, None), &context("x")), None);
    }
}
