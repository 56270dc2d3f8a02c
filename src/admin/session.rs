//! Sessions of the status page: who has shown the token once need not show it again, for a while.
//!
//! A session is kept by the browser alone, as a cookie: when it ends, some random bytes, and a hash over both that is keyed
//! with a key of this process and with the token. So the token is not in it, and another token or another process ends all
//! sessions. Forms carry a second hash of the same session: a page that can make a browser send a form, but cannot read
//! ours, does not have it.

use std::net::IpAddr;
use std::time::Duration;

use hmac::Mac;
use http::{HeaderMap, header};

use super::guard::{Refused, is_same, keyed};
use crate::hex;
use crate::throttle::{Rate, Throttle};

/// All sessions of one process.
pub struct Sessions {
    key: [u8; 32],
    /// Browsers send a host's cookies to all of its ports, so each listener has a name of its own.
    name: String,
    /// Tries of wrong tokens, by client.
    tries: Throttle,
}

/// A session that was opened with the token that holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// What every form of this session's pages must carry.
    pub csrf: String,
}

/// How long a session lasts.
pub const LIFE: Duration = Duration::from_secs(12 * 3600);

impl Sessions {
    /// Of the listener on `port`. `key` must be random.
    pub fn new(port: u16, key: [u8; 32], throttle_key: (u64, u64)) -> Sessions {
        let tries = Throttle::new(Rate { per_second: 1, burst: TRIES }, TRIED, throttle_key);
        Sessions { key, name: format!("hopfall_admin_{port}"), tries }
    }

    /// Whether `given` is the `token`. `now` is a clock that never goes back.
    ///
    /// # Errors
    /// When it is not; or when too many that were not came from the same client.
    pub fn check(&self, given: &str, token: &str, client: IpAddr, now: Duration) -> Result<(), Refused> {
        if !self.tries.would_admit(client, now) {
            return Err(Refused::TooMany);
        }
        if is_same(&self.key, given, token) {
            return Ok(());
        }
        self.tries.admit(client, now);
        Err(Refused::WrongToken)
    }

    /// The value of `Set-Cookie` that opens a session. `unix` is the time, `random` anything that never comes twice.
    pub fn open(&self, token: &str, unix: Duration, random: u128) -> String {
        let what = format!("{}.{random:032x}", (unix + LIFE).as_secs());
        let tag = self.tag("session", &what, token);
        format!("{}={what}.{tag}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict", self.name, LIFE.as_secs())
    }

    /// The value of `Set-Cookie` that ends it.
    pub fn close(&self) -> String {
        format!("{}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict", self.name)
    }

    /// The session of a request, if it has one that holds.
    pub fn find(&self, headers: &HeaderMap, token: &str, unix: Duration) -> Option<Session> {
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let mut cookies = lines.flat_map(|line| line.split(';')).map(str::trim);
        cookies.find_map(|cookie| {
            let value = cookie.strip_prefix(&self.name)?.strip_prefix('=')?;
            let (what, tag) = value.rsplit_once('.')?;
            let until = what.split('.').next()?.parse().ok()?;
            let holds = is_same(&self.key, tag, &self.tag("session", what, token)) && unix.as_secs() < until;
            holds.then(|| Session { csrf: self.tag("form", what, token) })
        })
    }

    /// Whether a form is one of this session's pages.
    pub fn is_of(&self, session: &Session, csrf: Option<&str>) -> bool {
        is_same(&self.key, csrf.unwrap_or_default(), &session.csrf)
    }

    fn tag(&self, purpose: &str, what: &str, token: &str) -> String {
        let key = keyed(&self.key, token.as_bytes()).finalize().into_bytes();
        let tag = keyed(&key, format!("{purpose}\n{what}").as_bytes()).finalize().into_bytes();
        hex::of(&tag)
    }
}

/// Wrong tokens at once; after them, one a second.
const TRIES: u32 = 5;
/// Clients whose tries are remembered.
const TRIED: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a-token-of-24-characters";
    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn sessions() -> Sessions {
        Sessions::new(9090, [7; 32], (1, 2))
    }

    fn with(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::COOKIE, cookie.parse().unwrap())])
    }

    #[test]
    fn a_session_holds_for_its_time_and_its_token() {
        let sessions = sessions();
        let set = sessions.open(TOKEN, NOW, 5);
        let (cookie, attributes) = set.split_once(';').unwrap();
        assert_eq!(attributes, " Path=/; Max-Age=43200; HttpOnly; SameSite=Strict");
        assert!(!set.contains(TOKEN));
        let found = |cookie: &str, token, now| sessions.find(&with(cookie), token, now);
        let session = found(cookie, TOKEN, NOW).unwrap();
        assert_eq!(found(&format!("other=1; {cookie}"), TOKEN, NOW + LIFE - Duration::from_secs(1)), Some(session));
        assert_eq!(found(cookie, TOKEN, NOW + LIFE), None, "it is over");
        assert_eq!(found(cookie, "another-token-of-26-letters", NOW), None);
        assert_eq!(Sessions::new(9090, [8; 32], (1, 2)).find(&with(cookie), TOKEN, NOW), None, "another process");
        assert_eq!(Sessions::new(9091, [7; 32], (1, 2)).find(&with(cookie), TOKEN, NOW), None, "another listener");
    }

    #[test]
    fn nobody_makes_up_a_session() {
        let sessions = sessions();
        let set = sessions.open(TOKEN, NOW, 5);
        let value = set.split_once(';').unwrap().0.split_once('=').unwrap().1;
        let [until, random, tag] = value.split('.').collect::<Vec<_>>()[..] else { panic!("{value}") };
        let csrf = sessions.find(&with(&format!("hopfall_admin_9090={value}")), TOKEN, NOW).unwrap().csrf;
        let later = until.parse::<u64>().unwrap() + 1;
        let short = &tag[..32];
        for made_up in [
            format!("{later}.{random}.{tag}"),
            format!("{until}.0.{tag}"),
            format!("{until}.{random}.{short}"),
            format!("{until}.{random}."),
            format!("{until}.{random}.{csrf}"),
            format!("{until}.{random}"),
            TOKEN.to_owned(),
            String::new(),
        ] {
            assert_eq!(sessions.find(&with(&format!("hopfall_admin_9090={made_up}")), TOKEN, NOW), None, "{made_up}");
        }
    }

    #[test]
    fn a_form_is_of_one_session() {
        let sessions = sessions();
        let session = |random| {
            let set = sessions.open(TOKEN, NOW, random);
            sessions.find(&with(set.split(';').next().unwrap()), TOKEN, NOW).unwrap()
        };
        let (one, other) = (session(1), session(2));
        assert!(sessions.is_of(&one, Some(&one.csrf)));
        assert!(!sessions.is_of(&one, Some(&other.csrf)));
        assert!(!sessions.is_of(&one, Some("")) && !sessions.is_of(&one, None));
    }

    #[test]
    fn wrong_tokens_are_slowed_down_and_right_ones_are_not() {
        let sessions = sessions();
        let [attacker, operator]: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
        let at = Duration::from_secs;
        for _ in 0..5 {
            assert_eq!(sessions.check("wrong", TOKEN, attacker, at(0)), Err(Refused::WrongToken));
        }
        assert_eq!(sessions.check("wrong", TOKEN, attacker, at(0)), Err(Refused::TooMany));
        assert_eq!(sessions.check(TOKEN, TOKEN, attacker, at(0)), Err(Refused::TooMany), "else it could be guessed");
        for _ in 0..100 {
            assert_eq!(sessions.check(TOKEN, TOKEN, operator, at(0)), Ok(()));
        }
        assert_eq!(sessions.check(TOKEN, TOKEN, attacker, at(1)), Ok(()));
    }
}
