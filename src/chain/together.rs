//! Searching together: of the requests for one path of which nobody knows where it is, one goes along the chain, and
//! the others wait for what it finds. Then each asks where the file is, and nobody else; a store feeds them all from one
//! request ([`crate::origin::StoreOrigin`]).
//!
//! Only what surely comes from a client takes part. A request that a node sends back to us would wait for itself; one
//! that we cannot tell from a client's waits no longer than [`PATIENCE`] while nodes are being asked.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::hints::Hints;
use super::{Chain, Request};
use crate::fallback::Refusal;
use crate::flight::{Flight, Following, Seat};
use crate::location::PathId;
use crate::snapshot::Caller;

/// What the leader tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The nodes have been asked. A store calls nobody back, so that it is safe to wait for it.
    AtStore,
    /// The location map knows where it is.
    Found,
    Refused(Refusal),
}

/// How a request searches.
pub(super) enum Search {
    Alone,
    Leading(Flight<PathId, Word>),
    /// Another one has found out.
    Told,
    Refused(Refusal),
}

impl Chain {
    /// Waits for another request's search for the same path, if there is one, and the path is not known.
    pub(super) async fn search_together<'a>(
        &'a self,
        request: &Request<'_>,
        hints: &mut Hints<'a>,
        deadline: Instant,
    ) -> Search {
        let Some(path) = hints.cold().filter(|_| matches!(request.caller, Caller::Client)) else {
            return Search::Alone;
        };
        while Instant::now() < deadline {
            let mut following = match self.searches.join(&path) {
                Seat::Lead(flight) => return Search::Leading(flight),
                Seat::Follow(following) => following,
            };
            match heard(&mut following, deadline).await {
                Heard::Word(Word::Refused(refusal)) => return Search::Refused(refusal),
                Heard::Word(_) => {
                    self.look_again(request, hints);
                    return Search::Told;
                }
                Heard::Nothing => return Search::Alone,
                Heard::LeaderLeft => {}
            }
        }
        Search::Alone
    }
}

enum Heard {
    Word(Word),
    /// In good time.
    Nothing,
    LeaderLeft,
}

async fn heard(following: &mut Following<Word>, deadline: Instant) -> Heard {
    let soon = deadline.min(Instant::now() + PATIENCE);
    let word = match timeout_at(soon, following.word(|_| true)).await {
        Ok(Some(Word::AtStore)) => timeout_at(deadline, following.word(|word| *word != Word::AtStore)).await,
        word => word,
    };
    match word {
        Ok(Some(word)) => Heard::Word(word),
        Ok(None) => Heard::LeaderLeft,
        Err(_) => Heard::Nothing,
    }
}

/// Longest wait while nodes are being asked: one of them may be asking us.
const PATIENCE: Duration = Duration::from_millis(500);
