//! The upload protocol that the server speaks: tus if OPTIONS says so, else PUT.
//!
//! | OPTIONS target is answered by | then |
//! |---|---|
//! | 2xx with Tus-Version or Tus-Resumable | tus (in parts, if the job wants several lanes), with this very answer: nothing is asked twice |
//! | 408, 425, 429, 500, 502, 503, 504 | asked again: a choice is for the whole job |
//! | anything else | PUT, which will show what that means |
//!
//! ```text
//! Asking ──▶ Tus(its states)
//!    ├─────▶ Parts(its states)
//!    └─────▶ Put(its states)
//! ```
//!
//! Killed in Asking: asks again; later: as the chosen protocol has it.
//!
//! Invariant: the choice is journaled before anything is sent by it, and never made again.
//! Absent on purpose: trying one protocol after the other has failed (what is half there would be left).

use serde::{Deserialize, Serialize};

use super::put::{self, Put};
use super::tus::{self, Tus};
use super::tus_parts::{self, TusParts};
use super::wire::{self, Verdict};
use super::{Facts, Input, Next, Protocol, ProtocolId, Reply, Step, StepError};
use crate::job::{Direction, Proof};

const LANE: u16 = 0;

/// The protocol.
pub enum Auto {}

/// What is journaled. Variants are only appended: their order is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// OPTIONS is due or under way.
    Asking,
    /// The server speaks tus.
    Tus(tus::State),
    /// It does not.
    Put(put::State),
    /// The server speaks tus, and the job wants several lanes.
    Parts(tus_parts::State),
}

impl Protocol for Auto {
    type State = State;
    const NAME: &'static str = "auto";
    const DIRECTION: Direction = Direction::Upload;

    fn new(_facts: &Facts<'_>) -> State {
        State::Asking
    }

    fn step(facts: &Facts<'_>, state: &State, input: &Input) -> Result<Step<State>, StepError> {
        match state {
            State::Tus(state) => Ok(wrap(Tus::step(facts, state, input)?, State::Tus)),
            State::Put(state) => Ok(wrap(Put::step(facts, state, input)?, State::Put)),
            State::Parts(state) => Ok(wrap(TusParts::step(facts, state, input)?, State::Parts)),
            State::Asking => match input {
                Input::Begin | Input::Restarted => {
                    // The question is tus's own: its answer must do for tus.
                    let asked = Tus::step(facts, &tus::State::Discovering, input)?;
                    Ok(wrap(asked, |_| State::Asking))
                }
                Input::Reply { lane: LANE, reply } => answered(facts, input, reply),
                Input::Lost { lane: LANE, kind, why } => Ok(asking(facts, wire::lost(*kind, why, facts.url))),
                Input::Cancel => {
                    let evidence = "no upload was begun".to_owned();
                    Ok(asking(facts, Next::Done(Proof { size: 0, evidence })))
                }
                Input::Reply { .. }
                | Input::Lost { .. }
                | Input::Synced { .. }
                | Input::Digested { .. }
                | Input::Woken { .. } => Err(StepError::unexpected(state, input)),
            },
        }
    }

    fn remote(state: &State) -> Option<&str> {
        match state {
            State::Asking => None,
            State::Tus(state) => Tus::remote(state),
            State::Put(state) => Put::remote(state),
            State::Parts(state) => TusParts::remote(state),
        }
    }

    fn chosen(state: &State) -> Option<ProtocolId> {
        match state {
            State::Asking => None,
            State::Tus(_) => Some(ProtocolId::Tus),
            State::Put(_) => Some(ProtocolId::Put),
            State::Parts(state) => Some(TusParts::chosen(state).unwrap_or(ProtocolId::TusParts)),
        }
    }
}

fn answered(facts: &Facts<'_>, input: &Input, reply: &Reply) -> Result<Step<State>, StepError> {
    if !reply.status.is_success()
        && let Verdict::Retry(retry) = wire::classify(reply, facts.now)
    {
        return Ok(asking(facts, Next::Retry(retry)));
    }
    Ok(match choose(reply) {
        Choice::Tus if facts.lanes > 1 => wrap(TusParts::offered(facts, reply)?, State::Parts),
        Choice::Tus => {
            let begun = Tus::step(facts, &tus::State::Discovering, input)?;
            Step { note: Some("the server speaks tus".to_owned()), ..wrap(begun, State::Tus) }
        }
        Choice::Put => {
            let begun = Put::step(facts, &Put::new(facts), &Input::Begin)?;
            let note = format!("no tus here (OPTIONS answered {}): PUT", reply.status.as_u16());
            Step { note: Some(note), ..wrap(begun, State::Put) }
        }
    })
}

enum Choice {
    Tus,
    Put,
}

fn choose(reply: &Reply) -> Choice {
    let says = |name| reply.headers.contains_key(name);
    let tus = reply.status.is_success() && (says("tus-version") || says("tus-resumable"));
    if tus { Choice::Tus } else { Choice::Put }
}

fn asking(facts: &Facts<'_>, next: Next) -> Step<State> {
    Step { state: State::Asking, done: 0, size: facts.size, next, note: None }
}

fn wrap<S>(step: Step<S>, state: impl FnOnce(S) -> State) -> Step<State> {
    Step { state: state(step.state), done: step.done, size: step.size, next: step.next, note: step.note }
}

#[cfg(test)]
mod tests;
